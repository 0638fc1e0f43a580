# What becomes of a device of `nbd attach` when it is detached under load, when its process is
# killed, when the export grows, and when something is wrong from the start.

cd /tmp
truncate -s 32M disk
forgetful disk socket & server=$!
until [ -S socket ]; do sleep 0.1; done
uri="nbd+unix:///?socket=/tmp/socket"

# Detached while somebody writes: what was acknowledged is in the file, though the server forgets.
[ "$(nbd attach "$uri")" = /dev/nbd0 ]
writes() {
    block=0
    while [ $block -lt 8192 ]; do
        { echo $block; head -c 4096 /dev/zero; } | head -c 4096 > block
        dd if=block of=/dev/nbd0 bs=4k seek=$block oflag=direct conv=notrunc 2> /dev/null || break
        block=$((block + 1))
        echo $block > acknowledged
    done
}
writes & writer=$!
until [ "$(cat acknowledged 2> /dev/null || echo 0)" -gt 20 ]; do sleep 0.1; done
nbd detach /dev/nbd0
wait $writer
kill -9 $server
wait $server || true
acknowledged=$(cat acknowledged)
block=0
while [ $block -lt $acknowledged ]; do
    [ "$(dd if=disk bs=4k skip=$block count=1 2> /dev/null | head -n 1)" = $block ]
    block=$((block + 1))
done
echo "all of $acknowledged blocks that were acknowledged are there"

# Killed: the device fails, is not stuck, and can be attached again.
nbd serve --file disk --unix socket > /dev/null & server=$!
until nbd info "$uri" > /dev/null 2>&1; do sleep 0.1; done
nbd attach "$uri" /dev/nbd0
kill -9 $(cat /sys/block/nbd0/pid)
if dd if=/dev/nbd0 of=/dev/null bs=4k count=1 iflag=direct 2> error; then exit 1; fi
nbd attached | grep ' dead '
nbd attach "$uri" /dev/nbd0
[ "$(dd if=/dev/nbd0 bs=4k count=1 iflag=direct 2> /dev/null | head -n 1)" = 0 ]

# In use: it stays.
mkfs.ext4 -q /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
if nbd detach /dev/nbd0 2> error; then exit 1; fi
grep 'unmount it first' error
if nbd attach "$uri" /dev/nbd0 2> error; then exit 1; fi
grep 'is in use: it is attached to' error
umount /mnt

# The export grows while the server is away, and so does the device.
kill -9 $server
wait $server || true
truncate -s 40M disk
nbd serve --file disk --unix socket > /dev/null & server=$!
until [ "$(cat /sys/block/nbd0/size)" = 81920 ]; do sleep 0.1; done
nbd detach /dev/nbd0
echo "it has grown"

# Read-only, and of odd size.
truncate -s 1000001 odd
nbd serve --file odd --unix oddity > /dev/null &
until [ -S oddity ]; do sleep 0.1; done
nbd attach --read-only "nbd+unix:///?socket=/tmp/oddity" /dev/nbd1 2> error
grep 'the last 65 bytes' error
[ "$(cat /sys/block/nbd1/size)" = 1953 ] && [ "$(cat /sys/block/nbd1/ro)" = 1 ]
dd if=/dev/nbd1 of=/dev/null bs=1M 2> /dev/null

# A file of many.
printf '[nbd2]\nuri = "%s"\nconnections = 2\nkeep-unflushed = "0"\n[nbd3]\nuri = "%s"\nread-only = true\n' \
    "$uri" "$uri" > many.toml
nbd attach --config many.toml
[ "$(nbd attached | wc -l)" = 4 ]
dd if=/dev/zero of=/dev/nbd2 bs=1M count=8 conv=fsync 2> /dev/null
nbd detach /dev/nbd3 /dev/nbd2 /dev/nbd1
nbd attached --json | grep -q '"devices": \[\]'

# Not root: that is all it is told.
chmod 777 . socket
echo 'nobody:x:65534:65534::/:/bin/sh' > /etc/passwd
ln -s busybox /bin/sh
if su nobody -c "nbd attach '$uri' /dev/nbd2" 2> error; then exit 1; fi
[ "$(cat error)" = "nbd: the kernel lets only root change its devices (it takes CAP_SYS_ADMIN)" ]

# Two want the same device: one gets it.
nbd attach "$uri" /dev/nbd2 > one 2>&1 & one=$!
nbd attach "$uri" /dev/nbd2 > two 2>&1 & two=$!
ended=0
wait $one || ended=$((ended + 1))
wait $two || ended=$((ended + 1))
[ $ended = 1 ]
cat one two | grep 'in use'
# Others see it, and leave it alone.
su nobody -c "XDG_RUNTIME_DIR=/tmp nbd attached" | grep '^/dev/nbd2 .* connected '
if su nobody -c "nbd detach /dev/nbd2" 2> error; then exit 1; fi
grep '/dev/nbd2: the kernel lets only root' error
dd if=/dev/nbd2 of=/dev/null bs=1M count=8 iflag=direct 2> /dev/null
nbd detach /dev/nbd2

# Asked to end while a file system is on it, it serves that until it is unmounted.
nbd attach "$uri" /dev/nbd2
mkfs.ext4 -q /dev/nbd2
mount -t ext4 /dev/nbd2 /mnt
kill -TERM $(cat /sys/block/nbd2/pid)
head -c 1000000 /dev/urandom > data
cp data /mnt
sync
echo 3 > /proc/sys/vm/drop_caches
cmp data /mnt/data
umount /mnt
until [ "$(cat /sys/block/nbd2/size)" = 0 ]; do sleep 0.1; done
nbd attached --json | grep -q '"devices": \[\]'

# More than one connection only where that is safe, and the others are missed aloud.
connections() { nbd attached --json | grep '"connections"' | tr -dc 0-9; }
nbd attach --connections 4 "$uri" /dev/nbd2 2> error
grep '1 of 4, since what is written is kept' error
[ "$(connections)" = 1 ]
nbd detach /dev/nbd2
for options in --once --keep-unflushed=0 --read-only; do
    [ "$(nbd attach $options --connections 4 "$uri" /dev/nbd2 2>&1)" = /dev/nbd2 ]
    [ "$(connections)" = 4 ]
    nbd detach /dev/nbd2
done
nbd attach --connections 4 [ nbd serve --memory 1M ] /dev/nbd2 2> error
grep '1 of 4, since each would be one to another server' error
nbd detach /dev/nbd2

# Its server is away: whoever detaches it is told, and waits until it is back; or does not wait.
away() {
    kill -9 $server
    wait $server || true
    until nbd attached | grep '^/dev/nbd2 .* reconnecting '; do sleep 0.1; done
}
nbd attach "$uri" /dev/nbd2
dd if=/dev/zero of=/dev/nbd2 bs=4k count=1 2> /dev/null
away
nbd detach /dev/nbd2 2> error & detaches=$!
until grep 'the server is away' error; do sleep 0.1; done
nbd serve --file disk --unix socket > /dev/null & server=$!
wait $detaches
nbd attach "$uri" /dev/nbd2
away
dd if=/dev/zero of=/dev/nbd2 bs=4k count=1 oflag=direct 2> /dev/null & writer=$!
nbd detach --force /dev/nbd2 2> error
grep 'what the kernel had is lost: the server is away' error
if wait $writer; then exit 1; fi
[ "$(cat /sys/block/nbd2/size)" = 0 ]
nbd serve --file disk --unix socket > /dev/null & server=$!
until nbd info "$uri" > /dev/null 2>&1; do sleep 0.1; done

# What goes wrong is told.
if nbd attach "nbd+unix:///?socket=/tmp/nothing" 2> error; then exit 1; fi
grep '/tmp/nothing' error
if nbd detach /dev/nbd5 2> error; then exit 1; fi
grep 'nothing is attached there' error
truncate -s 100 tiny
nbd serve --file tiny --unix small > /dev/null &
until [ -S small ]; do sleep 0.1; done
if nbd attach "nbd+unix:///?socket=/tmp/small" 2> error; then exit 1; fi
grep '100 bytes, which is less than one block' error
# An export that comes back smaller ends the device, which says why.
nbd attach "$uri" /dev/nbd4
kill -9 $server
wait $server || true
truncate -s 16M disk
nbd serve --file disk --unix socket > /dev/null & server=$!
until nbd attached | grep ' failed '; do sleep 0.1; done
if nbd detach /dev/nbd4 2> error; then exit 1; fi
grep 'its size was 41943040 bytes and is 16777216' error
nbd attached --json | grep -q '"devices": \[\]'
