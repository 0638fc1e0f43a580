# What the kernel knows of a device of `nbd attach` is what the server says of its export; and how a
# device is attached: in the foreground, when there is a server, once, beside other programs.

cd /tmp
queue() { cat /sys/block/$1/queue/$2; }
uri() { echo "nbd+unix:///?socket=/tmp/$1"; }

# A server that can do everything, of a file.
truncate -s 64M disk
serve() { nbd serve --file disk --unix all > /dev/null & server=$!; until [ -S all ]; do sleep 0.1; done; }
serve
nbd attach "$(uri all)" /dev/nbd0
[ "$(queue nbd0 write_cache)" = "write back" ] && [ "$(queue nbd0 fua)" = 1 ]
[ "$(queue nbd0 discard_max_bytes)" -gt 0 ] && [ "$(queue nbd0 logical_block_size)" = 512 ]
[ "$(cat /sys/block/nbd0/ro)" = 0 ]
nbd attached --json > told
for field in '"device": "/dev/nbd0"' '"state": "connected"' '"size": 67108864' '"reconnects": 0' \
    '"block-size": 512' '"last-error": null' "\"uri\": \"$(uri all)\""; do
    grep -F "$field" told > /dev/null
done
[ "$(sed -n 's/.*"since": \([0-9]*\).*/\1/p' told)" -le "$(date +%s)" ]

# A file system tells which blocks it needs no more, and the file is smaller for it.
dd if=/dev/urandom of=/dev/nbd0 bs=1M count=64 conv=fsync 2> /dev/null
full=$(du -k disk | cut -f 1)
mkfs.ext4 -q /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
head -c 20000000 /dev/urandom > /mnt/data
sync
used=$(du -k disk | cut -f 1)
[ "$used" -lt $((full / 2)) ]
rm /mnt/data
sync
fstrim /mnt
[ "$(du -k disk | cut -f 1)" -lt $((used - 15000)) ]
umount /mnt
fsck.ext4 -f -n /dev/nbd0 > /dev/null 2>&1
nbd detach /dev/nbd0
echo "it is as the server says, and what is not needed is given back"

# A server that can only read and write, in blocks of 4096 bytes and 32 KiB at most.
truncate -s 1M small
ln -sf busybox /bin/sh
nbdkit -f -U few --filter=blocksize-policy eval blocksize-minimum=4096 blocksize-preferred=4096 \
    blocksize-maximum=32K blocksize-error-policy=error get_size='echo 1M' \
    pread='dd if=/tmp/small bs=4096 skip=$(($4 / 4096)) count=$(($3 / 4096)) 2> /dev/null' \
    pwrite='dd of=/tmp/small bs=4096 seek=$(($4 / 4096)) conv=notrunc 2> /dev/null' \
    can_write='exit 0' &
until [ -S few ]; do sleep 0.1; done
nbd attach "$(uri few)" /dev/nbd0 2> error
grep 'cannot make anything durable' error
[ "$(queue nbd0 write_cache)" = "write through" ] && [ "$(queue nbd0 fua)" = 0 ]
[ "$(queue nbd0 discard_max_bytes)" = 0 ] && [ "$(queue nbd0 logical_block_size)" = 4096 ]
[ "$(queue nbd0 max_sectors_kb)" = 32 ]
head -c 65536 /dev/urandom > data
dd if=data of=/dev/nbd0 bs=64k oflag=direct 2> /dev/null
head -c 65536 small | cmp - data
nbd detach /dev/nbd0
echo "nothing is asked of a server that it cannot do"

# It waits for a server, if that is wanted.
kill -9 $server
wait $server || true
rm all
nbd attach --wait "$(uri all)" /dev/nbd0 2> error > ready & waits=$!
until grep 'waiting for it' error; do sleep 0.1; done
serve
wait $waits
[ "$(cat ready)" = /dev/nbd0 ]
nbd detach /dev/nbd0

# In the foreground it tells the init system when the device is there. It ends with a signal, and
# the device with it.
mkfifo line
socat -u UNIX-RECV:notify CREATE:notified & init=$!
until [ -S notify ]; do sleep 0.1; done
NOTIFY_SOCKET=/tmp/notify nbd attach --foreground "$(uri all)" > line & foreground=$!
read -r device < line
until grep READY=1 notified; do sleep 0.1; done
kill $init
[ "$(cat /sys/block/${device#/dev/}/pid)" = $foreground ]
kill -INT $foreground
wait $foreground
[ "$(cat /sys/block/${device#/dev/}/size)" = 0 ]

# Once: without its server there is no device any more, and that is told.
nbd attach --once "$(uri all)" /dev/nbd0
kill -9 $server
wait $server || true
until nbd attached | grep ' failed '; do sleep 0.1; done
until [ "$(cat /sys/block/nbd0/size)" = 0 ]; do sleep 0.1; done
if nbd detach /dev/nbd0 2> error; then exit 1; fi
grep 'not all is safe' error

# Through ssh, here a program that runs in this same machine what it is to run on another. What
# was written when it ended, and the server, is there all the same.
cat > /bin/ssh << 'END'
#!/bin/busybox sh
while [ "$1" != -- ]; do shift; done
[ "$2" = elsewhere ] && exec sh -c "$3"
END
chmod +x /bin/ssh
echo 127.0.0.1 localhost > /etc/hosts
far() { nbd serve --file disk --tcp 127.0.0.1:10809 > far & server=$!; until [ -s far ]; do sleep 0.1; done; }
far
nbd attach "nbd+ssh://elsewhere/" /dev/nbd0
dd if=data of=/dev/nbd0 bs=64k 2> /dev/null
rm far
kill -9 $server
wait $server || true
far
sync
head -c 65536 disk | cmp - data
[ "$(nbd attached | grep -c 'connected .* nbd+ssh://elsewhere/')" = 1 ]
nbd detach /dev/nbd0
kill $server
wait $server || true

# A device that another program has made is that program's, which need not be there any more.
rm all
serve
/bin/nbd-client -b 512 -unix /tmp/all /dev/nbd0 > /dev/null 2>&1
if nbd attach "$(uri all)" /dev/nbd0 2> error; then exit 1; fi
grep 'the device is in use' error
if nbd detach /dev/nbd0 2> error; then exit 1; fi
grep 'another program has attached it' error
dd if=/dev/nbd0 of=/dev/null bs=4k count=1 iflag=direct 2> /dev/null
[ "$(nbd attach "$(uri all)")" = /dev/nbd1 ]
nbd detach --all
/bin/nbd-client -d /dev/nbd0 > /dev/null

# What the kernel refuses is told in words.
if nbd attach "$(uri all)" /dev/nbd99999 2> error; then exit 1; fi
grep '/dev/nbd99999: the kernel has no device of that number' error
rmmod nbd
if nbd attach "$(uri all)" 2> error; then exit 1; fi
grep 'modprobe nbd' error
if nbd detach /dev/nbd0 2> error; then exit 1; fi
grep 'nothing is attached there' error
echo "it is told what goes wrong"
