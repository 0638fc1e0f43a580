# Data to a server over vsock and back, and its other end over vsock too: this machine is both.

nbdkit --vsock --port 10810 memory 16M
uri=nbd+vsock://1:10810
nbd info "$uri"
dd if=/dev/urandom of=/tmp/data bs=1M count=16 2> /dev/null
nbd copy /tmp/data "$uri"
nbd copy "$uri" /tmp/back
cmp /tmp/data /tmp/back
echo "the data came back over vsock"

# Nobody listens there.
if nbd info nbd+vsock://1:10811 2> /tmp/error; then exit 1; fi
cat /tmp/error
grep -q "vsock 1:10811" /tmp/error
