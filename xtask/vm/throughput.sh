# `nbd attach` and a program that only moves bytes, each between the kernel and one and the same
# server, in turns: what each does in a second is said in lines of their own, which
# `cargo xtask bench attach` makes a table of.
#
# A file called `rounds` says how many there are.

rounds=$(cat /bin/rounds)
cd /tmp
nbdkit -f -U kit memory 64M &
until [ -S kit ]; do sleep 0.1; done
[ "$(nbd attach "nbd+unix:///?socket=/tmp/kit" /dev/nbd0)" = /dev/nbd0 ]

# Both of its sockets take as much at once as those of `nbd attach`; that to the server, which is
# connected before, as much as usual.
nbd-bench-pump kit pump &
until [ -S pump ]; do sleep 0.1; done
usual=$(cat /proc/sys/net/core/wmem_default)
echo 2097152 > /proc/sys/net/core/wmem_default
/bin/nbd-client -b 512 -unix /tmp/pump /dev/nbd1 > /dev/null 2>&1
echo $usual > /proc/sys/net/core/wmem_default
[ "$(cat /sys/block/nbd0/size)" = "$(cat /sys/block/nbd1/size)" ]
for device in nbd0 nbd1; do
    echo none > /sys/block/$device/queue/scheduler
    echo "$device: requests of at most $(cat /sys/block/$device/queue/max_sectors_kb) KiB"
done
# The disk takes memory when it is first written to.
dd if=/dev/zero of=/dev/nbd0 bs=1M count=64 oflag=direct 2> /dev/null

# Reads or writes for some seconds; how many a second is the eighth or the 49th field.
load() {
    fio --minimal --name=load --filename=/dev/$1 --direct=1 --ioengine=libaio --time_based \
        --runtime=2 --ramp_time=0.5 --norandommap --rw=$2 --bs=$3 --iodepth=$4 > told
    field=8
    [ $2 = randread ] || field=49
    echo "measured $1 $2 $3 $4 $(cut -d ';' -f $field told)"
}
round=0
while [ $round -lt $rounds ]; do
    first=nbd0 second=nbd1
    if [ $((round % 2)) = 1 ]; then first=nbd1 second=nbd0; fi
    for kind in "randread 4k 64" "randwrite 4k 64" "randread 256k 16" "randwrite 256k 16"; do
        load $first $kind
        load $second $kind
    done
    round=$((round + 1))
done
/bin/nbd-client -d /dev/nbd1 > /dev/null
nbd detach /dev/nbd0
