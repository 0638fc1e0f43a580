# Data to a server over vsock and back, this machine being both ends: `nbd` with nbdkit, and nbdcopy
# with `nbd serve`. And a device over vsock, whose server is killed and comes back.

dd if=/dev/urandom of=/tmp/data bs=1M count=16 2> /dev/null

nbdkit --vsock --port 10810 memory 16M
nbd info nbd+vsock://1:10810
nbd copy /tmp/data nbd+vsock://1:10810
nbd copy nbd+vsock://1:10810 /tmp/back
cmp /tmp/data /tmp/back
echo "the data came back from nbdkit"

mkfifo /tmp/ready
nbd serve --memory 16M --vsock 10811 > /tmp/ready &
read -r uri < /tmp/ready
echo "serving at $uri"
nbdcopy /tmp/data nbd+vsock://1:10811
nbdcopy nbd+vsock://1:10811 /tmp/returned
cmp /tmp/data /tmp/returned
echo "the data came back from nbd serve"

# Nobody listens there.
if nbd info nbd+vsock://1:10812 2> /tmp/error; then exit 1; fi
cat /tmp/error
grep -q "vsock 1:10812" /tmp/error

truncate -s 16M /tmp/disk
serve() {
    nbd serve --file /tmp/disk --vsock 10813 > /tmp/ready & server=$!
    read -r uri < /tmp/ready
}
serve
nbd attach "nbd+vsock://1:10813" /dev/nbd0
dd if=/tmp/data of=/dev/nbd0 bs=1M 2> /dev/null
kill -9 $server
wait $server || true
serve
sync
echo 3 > /proc/sys/vm/drop_caches
cmp /tmp/data /dev/nbd0
nbd attached | grep '/dev/nbd0 .* connected '
nbd detach /dev/nbd0
cmp /tmp/data /tmp/disk
echo "the device is there over vsock"
