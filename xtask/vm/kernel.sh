# The kernel's client with four connections to `nbd serve`: a file system on it is made, filled and
# checked, and the same data are there through the kernel, again after a reconnect, and for `nbd`.

mkfifo /tmp/ready
nbd serve --memory 64M --unix /tmp/socket > /tmp/ready &
read -r uri < /tmp/ready
echo "serving at $uri"

# By its path: the busybox of Debian 13 has another one in itself, and looks there first.
/bin/nbd-client -C 4 -unix /tmp/socket /dev/nbd0
[ "$(cat /sys/block/nbd0/size)" = 131072 ]
mkfs.ext4 -q /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
dd if=/dev/urandom of=/tmp/data bs=1M count=16 2> /dev/null
cp /tmp/data /mnt/data
mkdir /mnt/many
for name in $(seq 200); do echo "$name" > /mnt/many/$name; done
umount /mnt
/bin/nbd-client -d /dev/nbd0
echo "filled and disconnected"

/bin/nbd-client -C 4 -unix /tmp/socket /dev/nbd1
fsck.ext4 -f -n /dev/nbd1
mount -t ext4 -o ro /dev/nbd1 /mnt
cmp /tmp/data /mnt/data
for name in $(seq 200); do [ "$(cat /mnt/many/$name)" = "$name" ]; done
umount /mnt
nbd copy "$uri" /tmp/disk
cmp /tmp/disk /dev/nbd1
/bin/nbd-client -d /dev/nbd1
echo "the data are the same through the kernel and for nbd"
