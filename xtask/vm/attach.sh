# `nbd attach` while its servers are killed every three seconds and started again, and each of them
# stands still for a while, one longer than it may be silent: no error reaches the file systems, and
# everything that was written is there. One of the servers forgets what was not flushed; three speak
# TLS, two with certificates of both sides, one of them nbdkit, and one with a pre-shared key.
#
# By hand a file called `seconds` says how long, and one called `still` how long the servers stand
# still: cargo xtask vm xtask/vm/attach.sh ... seconds still

seconds=$(cat /bin/seconds 2> /dev/null || echo 20)
still=$(cat /bin/still 2> /dev/null || echo 4)
cd /tmp
echo alice:0123456789abcdef0123456789abcdef > psk

# An authority, and a certificate of each side.
mkdir pki
printf '[req]\ndistinguished_name = name\n[name]\n' > openssl.cnf
certify() { openssl "$@" -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes 2> /dev/null; }
certify req -x509 -subj /CN=authority -keyout ca-key.pem -out pki/ca-cert.pem
for side in server client; do
    certify req -subj /CN=$side -keyout pki/$side-key.pem -out $side.csr
    echo "subjectAltName = IP:127.0.0.1" > $side.ext
    openssl x509 -req -in $side.csr -CA pki/ca-cert.pem -CAkey ca-key.pem -CAcreateserial \
        -extfile $side.ext -out pki/$side-cert.pem 2> /dev/null
done

# Servers, each of a disk of its own and on the socket of its name.
for name in serve kit forget still; do truncate -s 32M $name.img; done
qemu-img create -q -f qcow2 qemu.img 32M
serve() {
    exec nbd serve --file serve.img --tcp 127.0.0.1:10809 --tls-certificates pki \
        --tls-verify-peer > serve
}
kit() {
    exec nbdkit -f -i 127.0.0.1 -p 10810 -P kit --tls=require --tls-certificates=/tmp/pki \
        --tls-verify-peer file kit.img
}
qemu() { exec qemu-nbd -t -k /tmp/qemu -f qcow2 qemu.img; }
forget() { exec forgetful forget.img forget; }
still() { exec nbd serve --file still.img --unix still --tls-psk psk > /dev/null; }
all="serve kit qemu forget still"

# Kills a server over and over, three seconds after it has begun to listen, until there is a file
# that says enough. Before that it stands still once, when another file says so.
is_there() { [ -S $1 ] || [ -s $1 ]; }
lives() {
    while [ ! -e enough ]; do
        rm -f $1
        $1 & server=$!
        until is_there $1; do sleep 0.1; done
        sleep 3
        if [ -e $1.stand ]; then
            rm $1.stand
            kill -STOP $server
            sleep $still
            kill -CONT $server
            echo $1 >> stood
            sleep 3
        fi
        kill -9 $server
        wait $server || true
    done 2> /dev/null
    rm -f $1
    $1
}
for name in $all; do
    if [ $name = still ]; then still & standing=$!; else lives $name & fi
    until is_there $name; do sleep 0.1; done
done

number=0
for name in $all; do
    uri="nbd+unix:///?socket=/tmp/$name"
    [ $name != serve ] || uri="nbds://127.0.0.1/?tls-certificates=/tmp/pki"
    [ $name != kit ] || uri="nbds://127.0.0.1:10810/?tls-certificates=/tmp/pki"
    [ $name != still ] || uri="nbds+unix://alice@/?socket=/tmp/still&tls-psk-file=/tmp/psk"
    limit=30
    [ $name != still ] || limit=2
    [ "$(nbd attach --wait --timeout $limit "$uri" /dev/nbd$number)" = /dev/nbd$number ]
    mkfs.ext4 -q -N 256 -E nodiscard /dev/nbd$number
    mkdir -p /mnt/$name
    mount -t ext4 /dev/nbd$number /mnt/$name
    number=$((number + 1))
done
nbd attached

# Writes files, and notes what was in them once they are safe.
writes() {
    count=0
    until [ -e enough ]; do
        head -c 1048576 /dev/urandom > $1.data
        dd if=$1.data of=/mnt/$1/file$((count % 20)) bs=64k conv=fsync 2> $1.error || { touch $1.failed; return; }
        md5sum < $1.data > $1.sum$((count % 20))
        count=$((count + 1))
    done
    echo $count > $1.count
}
writers=
for name in $all; do writes $name & writers="$writers $!"; done
sleep $((seconds / 2))
for name in $all; do touch $name.stand; done
kill -STOP $standing
sleep $still
kill -CONT $standing
sleep $((seconds - seconds / 2))
touch enough
for writer in $writers; do wait $writer; done
nbd attached
nbd attached --json > attached.json

number=0
for name in $all; do
    [ ! -e $name.failed ] || { cat $name.error; exit 1; }
    umount /mnt/$name
    echo 3 > /proc/sys/vm/drop_caches
    fsck.ext4 -f -n /dev/nbd$number > $name.fsck || { cat $name.fsck; exit 1; }
    mount -t ext4 -o ro /dev/nbd$number /mnt/$name
    for sum in $name.sum*; do
        [ "$(md5sum < /mnt/$name/file${sum#$name.sum})" = "$(cat $sum)" ]
    done
    umount /mnt/$name
    echo "$name: $(cat $name.count) files, and all of them are right"
    number=$((number + 1))
done
if dmesg | grep -i 'i/o error'; then exit 1; fi
[ "$(grep -c '"reconnects": [1-9]' attached.json)" = 5 ]
[ "$(sort stood | tr '\n' ' ')" = "forget kit qemu serve " ]
nbd detach --all
nbd attached --json | grep -q '"devices": \[\]'
[ "$(cat /sys/block/nbd0/size)" = 0 ]
echo "no error has reached the file systems, and nothing is lost"
