# Data to a server over vsock and back, this machine being both ends: `nbd` with nbdkit, and nbdcopy
# with `nbd serve`.

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
