(* What Debian's OCaml module asks of the library. *)

let check what = function true -> () | false -> failwith ("not so: " ^ what)

let () =
  let uri = Sys.argv.(1) in
  NBD.with_handle (fun h ->
      NBD.add_meta_context h NBD.context_base_allocation;
      NBD.connect_uri h uri;
      check "size" (NBD.get_size h = Int64.shift_left 1L 20);

      let data = Bytes.make 4096 'x' in
      NBD.pwrite h data 4096L;
      let back = Bytes.create 4096 in
      NBD.pread h back 4096L;
      check "data" (Bytes.equal data back);

      let covered = ref 0L in
      NBD.block_status h (Int64.shift_left 1L 20) 0L (fun context _ entries _ ->
          check "context" (context = "base:allocation");
          Array.iteri
            (fun i length -> if i land 1 = 0 then covered := Int64.add !covered length)
            entries;
          0);
      check "extents" (!covered = Int64.shift_left 1L 20);

      let buffer = NBD.Buffer.alloc 512 in
      let completed = ref 0 in
      let completion error =
        check "no error" (!error = 0);
        incr completed;
        1
      in
      ignore (NBD.aio_pread h buffer 4096L ~completion);
      while NBD.aio_in_flight h > 0 do
        ignore (NBD.poll h (-1))
      done;
      check "completed" (!completed = 1);
      check "buffer" (NBD.Buffer.to_bytes buffer = Bytes.sub data 0 512);

      (* An exception of a callback is an error of the call. *)
      (try
         NBD.pread_structured h back 0L (fun _ _ _ _ -> failwith "broken");
         failwith "it failed"
       with NBD.Error (text, _) ->
         check text (String.length text > 0));
      NBD.shutdown h);
  let h = NBD.create () in
  NBD.close h;
  try
    ignore (NBD.get_size h);
    failwith "it is closed"
  with NBD.Closed _ -> Gc.full_major ()
