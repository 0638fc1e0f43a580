# `nbd attach` to several servers of the same data: when the one in use is killed, the device goes on
# with the other, and what was acknowledged and not flushed is there; connections are spread only
# where that was asked for; servers that differ are not attached. And a server that answers nonsense
# ends the device, which can be attached again.

cd /tmp
truncate -s 32M disk
uri() { echo "nbd+unix:///?socket=/tmp/$1"; }
# Each of them forgets what was not flushed, and knows what is in the file when it starts: one runs
# at a time.
one() { forgetful disk one & one=$!; until [ -S one ]; do sleep 0.1; done; }
two() { forgetful disk two & two=$!; until [ -S two ]; do sleep 0.1; done; }
one
[ "$(nbd attach --also "$(uri two)" "$(uri one)" /dev/nbd0 2> error)" = /dev/nbd0 ]
grep 'whether it is like' error
nbd attached | grep "connected .* $(uri one)\$"
nbd attached --json | grep -A 1 '"also"' | grep -F "$(uri two)"
mkfs.ext4 -q /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
head -c 4000000 /dev/urandom > data

# Killed, one after the other, while somebody writes.
cp data /mnt/first
kill -9 $one
wait $one || true
two
sync
nbd attached | grep "connected .* $(uri two)\$"
cp data /mnt/second
kill -9 $two
wait $two || true
rm one
one
sync
nbd attached | grep "connected .* $(uri one)\$"
echo 3 > /proc/sys/vm/drop_caches
cmp data /mnt/first
cmp data /mnt/second
umount /mnt
fsck.ext4 -f -n /dev/nbd0 > told || { cat told; exit 1; }
nbd detach /dev/nbd0
kill -9 $one
wait $one || true
if dmesg | grep -i 'i/o error'; then exit 1; fi
echo "what was written is there by way of the other server"

# Spread: over servers of one file in one page cache.
rm one two
serve() { nbd serve --file disk --unix $1 > /dev/null & until [ -S $1 ]; do sleep 0.1; done; }
serve one
serve two
several="--connections 4 --keep-unflushed=0 --also $(uri two)"
nbd attach $several "$(uri one)" /dev/nbd0 2> error
grep '1 of 4, since others could come to be to another server' error
nbd detach /dev/nbd0
printf '[nbd0]\nuri = "%s"\nalso = ["%s"]\nspread = true\nconnections = 4\nkeep-unflushed = "0"\n' \
    "$(uri one)" "$(uri two)" > many.toml
nbd attach --config many.toml
nbd attached | grep "connected .* $(uri one) $(uri two)\$"
nbd attached --json | grep '"connections": 4'
dd if=data of=/dev/nbd0 bs=64k conv=fsync 2> /dev/null
head -c 4000000 disk | cmp - data
nbd detach /dev/nbd0

# Servers that differ.
truncate -s 16M other
nbd serve --file other --unix three > /dev/null &
until [ -S three ]; do sleep 0.1; done
if nbd attach --also "$(uri three)" "$(uri one)" /dev/nbd0 2> error; then exit 1; fi
grep 'are not the same: 33554432 bytes and 16777216 bytes' error
[ "$(cat /sys/block/nbd0/size)" = 0 ]
echo "servers that differ are told apart"
