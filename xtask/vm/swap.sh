# Swap on a device of `nbd attach`, under memory pressure: what was swapped out comes back as it was,
# and nothing stands still.

cd /tmp
nbdkit -f -t 1 --swap -U kit memory 192M allocator=malloc,mlock=true &
until [ -S kit ]; do sleep 0.1; done
[ "$(nbd attach "nbd+unix:///?socket=/tmp/kit" /dev/nbd0)" = /dev/nbd0 ]

# Its process stays in memory, is the last to be ended when there is none, and each of its threads
# is a flusher: PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE are among its flags.
pid=$(cat /sys/block/nbd0/pid)
[ "$(sed -n 's/^VmLck:[[:space:]]*\([0-9]*\) kB/\1/p' /proc/$pid/status)" -gt 1000 ]
[ "$(cat /proc/$pid/oom_score_adj)" = -1000 ]
# All of the program is there, also what has not run yet.
awk '/ r-xp .*\/nbd$/ { here = 1 } here && /^Size:/ { size = $2 } here && /^Rss:/ { print size, $2; exit }' \
    /proc/$pid/smaps > text
read -r size present < text
[ "$size" -gt 1000 ] && [ "$size" = "$present" ]
for task in /proc/$pid/task/*; do
    flags=$(sed 's/.*) //' $task/stat | cut -d ' ' -f 7)
    [ $((flags & 0x180000)) = $((0x180000)) ]
done

dd if=/dev/zero of=/dev/nbd0 bs=1M count=192 conv=fsync 2> /dev/null
mkswap /dev/nbd0 > /dev/null
swapon /dev/nbd0

# Whoever fills the file system has little memory, all the others enough: a server in this same
# machine would wait for memory, and so for itself. Above this limit it is slowed down, and never
# killed, however long the device takes.
mount -t cgroup2 cgroup /sys/fs/cgroup
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
mkdir big /sys/fs/cgroup/small
echo 32M > /sys/fs/cgroup/small/memory.high
mount -t tmpfs -o size=1g big big
seq 2000000 > block
parts=$(seq 5)
fill() {
    echo 0 > /sys/fs/cgroup/small/cgroup.procs
    for part in $parts; do cat block > big/$part; done
}
(fill)
used=$(tail -n 1 /proc/swaps | tr -s '\t ' ' ' | cut -d ' ' -f 4)
for part in $parts; do cmp block big/$part; done
tail -n 1 /proc/swaps
umount big
swapoff /dev/nbd0
nbd detach /dev/nbd0
[ "$used" -gt 32768 ]
echo "$used KiB were swapped out, and all of it is right"
