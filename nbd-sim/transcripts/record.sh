#!/bin/sh
# Records the transcripts of this directory anew, between real clients and real servers.
# Needs nbdkit, qemu-utils, nbd-server, libnbd-bin and python3-libnbd.
# usage: record.sh PROGRAM [NAME...]
#   PROGRAM: the built example "record" of nbd-sim
#   NAME:    transcripts to record; all of them if none is named
set -eu
record=$1
shift
wanted=$*
here=$(cd "$(dirname "$0")" && pwd)
W=$(mktemp -d)
servers=
trap 'for pid in $servers; do kill -9 "$pid" 2>/dev/null || :; done; rm -rf "$W"' EXIT
# nbdsh wants the system's own python.
PATH=/usr/bin:$PATH
export W

wait_for() {
    tries=0
    until [ -S "$1" ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { echo "no socket $1" >&2; exit 1; }
        sleep 0.05
    done
}

# session NAME COMMENT SERVER CLIENT: the server listens on $S, the client connects to $C.
session() {
    name=$1 comment=$2 server=$3 client=$4
    if [ -n "$wanted" ]; then
        case " $wanted " in *" $name "*) ;; *) return 0 ;; esac
    fi
    S=$W/s.$name
    C=$W/c.$name
    export S C
    sh -c "exec $server" >"$W/log" 2>&1 &
    server_pid=$!
    servers="$servers $server_pid"
    wait_for "$S"
    "$record" "$C" "$S" "$here/$name" 1 "$comment" "server: $(echo "$server" | sed 's/\$[A-Z]\/*//g')" &
    relay_pid=$!
    servers="$servers $relay_pid"
    wait_for "$C"
    sh -c "$client" >"$W/out" 2>&1 || :
    wait "$relay_pid" || { echo "$name: the relay failed" >&2; cat "$W/out" >&2; exit 1; }
    kill -9 "$server_pid" 2>/dev/null || :
    wait "$server_pid" 2>/dev/null || :
    echo "$name: $(wc -c <"$here/$name.transcript") bytes"
    sed 's/^/    /' "$W/out" | head -12
}

cd "$W"
truncate -s 1M disk.img
qemu-img create -q -f qcow2 base.qcow2 1M
qemu-io -f qcow2 -c 'w -P 1 0 64k' base.qcow2 >/dev/null
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
qemu-io -f qcow2 -c 'w -P 2 64k 64k' top.qcow2 >/dev/null
qemu-img bitmap --add --enable -f qcow2 top.qcow2 bitmap0
qemu-img bitmap --add --enable -f qcow2 top.qcow2 bitmap1
qemu-io -f qcow2 -c 'w -P 3 128k 64k' -c 'w -z 512k 64k' top.qcow2 >/dev/null
# A server that is killed leaves the bitmaps of an image it wrote to unusable.
cp top.qcow2 written.qcow2
qemu-img create -q -f qcow2 big.qcow2 10T
cat >ns.conf <<END
[generic]
unixsock = $W/s.nbd-server
allowlist = true
[rw]
exportname = $W/disk.img
flush = true
fua = true
trim = true
rotational = true
[ro]
exportname = $W/disk.img
readonly = true
END
sed 's/s\.nbd-server/s.nbd-server-list/' ns.conf >ns-list.conf

reads='-c "print(h.get_size())" -c "h.pwrite(b\"Z\"*16, 4)" -c "print(bytes(h.pread(32, 0)))"'
errors='-c "
def fails(f, *a):
    try: f(*a)
    except nbd.Error as e: print(e)
    else: print(\"no error\")
"'

session nbdkit-oldstyle 'Oldstyle handshake, write, read, a flush that fails although it is offered, nbdsh.' \
    'nbdkit -f -o -U $S memory 1M' \
    "nbdsh -u \"nbd+unix:///?socket=\$C\" $reads $errors -c 'fails(h.flush)' -c 'h.shutdown()'"

session nbdkit-newstyle-zeroes 'Newstyle that is not fixed, 124 zeroes sent, nbdsh.' \
    'nbdkit -f --mask-handshake=0 -U $S memory 1M' \
    "nbdsh -u \"nbd+unix:///name?socket=\$C\" $reads -c 'h.shutdown()'"

session nbdkit-newstyle-no-zeroes 'Newstyle that is not fixed, no zeroes, nbdsh.' \
    'nbdkit -f --mask-handshake=2 -U $S memory 1M' \
    "nbdsh -u \"nbd+unix:///?socket=\$C\" $reads -c 'h.shutdown()'"

session nbdkit-simple 'Fixed newstyle, structured replies refused, an error reply, nbdsh.' \
    'nbdkit -f --no-sr -U $S memory 1M' \
    "nbdsh -u \"nbd+unix:///?socket=\$C\" $reads $errors -c 'h.set_strict_mode(0)' -c 'fails(h.pread, 512, 1<<20)' -c 'fails(h.pwrite, bytes(512), 1<<20)' -c 'h.shutdown()'"

session nbdkit-structured 'Structured replies with base:allocation, every command and error replies, nbdsh.' \
    'nbdkit -f -U $S memory 1M' \
    "nbdsh --base -u \"nbd+unix:///?socket=\$C\" $reads $errors -c '
h.zero(65536, 65536)
h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO)
h.trim(65536, 131072)
h.flush()
h.cache(65536, 0)
h.block_status(1<<20, 0, lambda m, o, e, x: print(m, o, e))
h.block_status(1<<20, 0, lambda m, o, e, x: print(m, o, e), nbd.CMD_FLAG_REQ_ONE)
h.pread_structured(4096, 1044480, lambda b, o, s, e: print(o, len(b), s), nbd.CMD_FLAG_DF)
h.set_strict_mode(0)
fails(h.pread, 512, 1<<20)
fails(h.pwrite, bytes(512), 1<<20)
fails(h.zero, 512, 1<<20)
fails(h.trim, 512, 1<<20)
fails(h.pread, 0, 0)
' -c 'h.shutdown()'"

session nbdkit-errors 'Error chunks and simple errors from a failing backend, nbdsh.' \
    'nbdkit -f -U $S --filter=error memory 1M error-pread=EPERM error-pread-rate=100% error-pwrite=ENOSPC error-pwrite-rate=100% error-zero=ENOMEM error-zero-rate=100% error-cache=EIO error-cache-rate=100%' \
    "nbdsh -u \"nbd+unix:///?socket=\$C\" $errors -c 'fails(h.pread, 512, 0); fails(h.pwrite, bytes(16), 0); fails(h.zero, 512, 0); fails(h.cache, 512, 0)' -c 'h.shutdown()'"

session nbdkit-fast-zero 'Fast zero refused with NBD_ENOTSUP, nbdsh.' \
    'nbdkit -f -U $S --filter=nozero memory 1M zeromode=notrim fastzeromode=slow' \
    "nbdsh -u \"nbd+unix:///?socket=\$C\" $errors -c 'fails(h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO); h.zero(4096, 0)' -c 'h.shutdown()'"

session nbdkit-block-size 'Block sizes 512, 4096, 1M and many reads in flight, nbdcopy.' \
    'nbdkit -f -U $S --filter=blocksize-policy memory 1M blocksize-minimum=512 blocksize-preferred=4096 blocksize-maximum=1M blocksize-error-policy=error' \
    'nbdcopy --connections=1 --requests=8 --request-size=65536 "nbd+unix:///?socket=$C" null:'

session nbdkit-list 'A list with descriptions, a refused export, then the end, nbdsh.' \
    'nbdkit -f -U $S --filter=exportname memory 1M exportname=hello exportname=goodbye exportname-list=explicit exportname-strict=true exportdesc=fixed:world' \
    "nbdsh -c 'h.set_opt_mode(True)' $errors -c 'import os' -c 'h.connect_unix(os.environ[\"C\"])' -c 'print(h.opt_list(lambda n, d: print(n, d)))' -c 'h.set_export_name(\"zzz\"); fails(h.opt_info)' -c 'h.opt_abort()'"

session nbdkit-opt-mode 'Option mode: list, info refused, metadata contexts listed, name set, go, nbdsh.' \
    'nbdkit -f -U $S --filter=exportname memory 1M exportname=hello exportname-strict=true exportdesc=fixed:world' \
    "nbdsh -c 'h.set_opt_mode(True)' $errors -c 'import os' -c 'h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION); h.set_full_info(True)' -c 'h.connect_unix(os.environ[\"C\"])' -c 'print(h.opt_list(lambda n, d: print(n, d)))' -c 'h.set_export_name(\"bad\"); fails(h.opt_info)' -c 'h.set_export_name(\"hello\"); print(h.opt_list_meta_context(print)); h.opt_info(); h.opt_go()' -c 'print(h.get_size()); h.block_status(4096, 0, print)' -c 'h.shutdown()'"

session nbdkit-starttls-refused 'STARTTLS refused, the client goes on without, nbdsh.' \
    'nbdkit -f -U $S --tls=off memory 1M' \
    "nbdsh -c 'import os; h.set_tls(nbd.TLS_ALLOW); h.connect_unix(os.environ[\"C\"])' $reads -c 'h.shutdown()'"

session qemu-structured 'Holes and several chunks, DF, an error with text, nbdsh.' \
    'qemu-nbd -t -e 0 -k $S -f qcow2 -x hello -D world $W/written.qcow2' \
    "nbdsh --base -u \"nbd+unix:///hello?socket=\$C\" $errors -c '
h.pread_structured(1048576, 0, lambda b, o, s, e: print(o, len(b), s))
h.pread_structured(262144, 65536, lambda b, o, s, e: print(o, len(b), s), nbd.CMD_FLAG_DF)
h.block_status(1048576, 0, lambda m, o, e, x: print(m, o, e))
h.pwrite(b\"Y\"*16, 4)
h.zero(65536, 131072)
h.trim(65536, 0)
h.cache(65536, 0)
h.flush()
h.set_strict_mode(0)
h.pread(0, 0)
fails(h.pread, 512, 1<<20)
fails(h.pwrite, bytes(512), 1<<20)
' -c 'h.shutdown()'"

session qemu-contexts 'Allocation depth and two dirty bitmaps at once, ids from zero, nbdsh.' \
    'qemu-nbd -t -e 0 -r -k $S -f qcow2 -A -B bitmap0 -B bitmap1 $W/top.qcow2' \
    "nbdsh -c 'import os' $errors -c 'for c in (\"base:allocation\", \"qemu:allocation-depth\", \"qemu:dirty-bitmap:bitmap0\", \"qemu:dirty-bitmap:bitmap1\"): h.add_meta_context(c)' -c 'h.connect_unix(os.environ[\"C\"])' -c 'h.block_status(1048576, 0, lambda m, o, e, x: print(m, o, e))' -c 'h.block_status(65536, 65536, lambda m, o, e, x: print(m, o, e), nbd.CMD_FLAG_REQ_ONE)' -c 'h.set_strict_mode(0); fails(h.pwrite, bytes(16), 0)' -c 'h.shutdown()'"

session qemu-info 'A list, names with descriptions and block sizes, block sizes required, nbdsh.' \
    'qemu-nbd -t -e 0 -k $S -x hello -D world $W/disk.img' \
    "nbdsh -c 'import os; h.set_opt_mode(True); h.set_full_info(True)' $errors -c 'h.connect_unix(os.environ[\"C\"])' -c 'print(h.opt_list(lambda n, d: print(n, d)))' -c 'h.set_request_block_size(False); h.set_export_name(\"hello\"); fails(h.opt_info); h.set_export_name(\"none\"); fails(h.opt_info)' -c 'h.set_request_block_size(True); h.set_export_name(\"hello\"); h.opt_go(); print(h.get_size())' -c 'h.shutdown()'"

session qemu-extended 'Extended headers: write, zero over 4 GiB, trim, flush, read, qemu-io.' \
    'qemu-nbd -t -e 0 -k $S -f qcow2 --discard=unmap $W/big.qcow2' \
    'qemu-io -f raw -c "w -P 5 4k 8k" -c "w -z -n -u 5G 6G" -c "discard 20G 1G" -c "flush" -c "r -P 5 4k 8k" -c "r 60k 128k" -c "w -f -P 6 128k 512" "nbd+unix:///?socket=$C"'

session qemu-extended-map 'Extended headers: block status of 10 TiB, qemu-img map.' \
    'qemu-nbd -t -e 0 -r -k $S -f qcow2 $W/big.qcow2' \
    'qemu-img map --output=json "nbd+unix:///?socket=$C"'

session nbd-server 'Rotational export, write, read, trim, flush and errors, nbdsh.' \
    'nbd-server -d -C $W/ns.conf -p $W/ns.pid' \
    "nbdsh -u \"nbd+unix:///rw?socket=\$C\" $reads $errors -c 'h.trim(4096, 65536); h.flush(); h.set_strict_mode(0)' -c 'fails(h.pread, 512, 1<<20)' -c 'fails(h.pwrite, bytes(512), 1<<20)' -c 'h.shutdown()'"

session nbd-server-list 'A list, an unknown export refused with text, info, then go read-only, nbdsh.' \
    'nbd-server -d -C $W/ns-list.conf -p $W/nsl.pid' \
    "nbdsh -c 'import os; h.set_opt_mode(True)' $errors -c 'h.connect_unix(os.environ[\"C\"])' -c 'print(h.opt_list(lambda n, d: print(n, d)))' -c 'h.set_export_name(\"none\"); fails(h.opt_info)' -c 'h.set_export_name(\"ro\"); h.opt_info(); print(h.get_size()); h.opt_go(); print(h.get_size())' -c 'h.set_strict_mode(0); fails(h.pwrite, bytes(16), 0)' -c 'h.shutdown()'"
