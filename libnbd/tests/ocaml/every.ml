(* Each call of the module once at least, and what it must answer.
   Arguments: a Unix socket, then host and port, of two servers of a disk of 1 MiB. *)

open NBD

let path = Sys.argv.(1)
let host = Sys.argv.(2)
let port = Sys.argv.(3)
let mebibyte = 1048576L
let check what = function true -> () | false -> failwith ("not so: " ^ what)

let refused what call =
  match call () with
  | _ -> failwith ("accepted: " ^ what)
  | exception Error (text, _) -> check what (String.length text > 0)

(* Drives a handle until something is so. *)
let rec until condition h =
  if not (condition h) then begin
    ignore (poll h (-1));
    until condition h
  end

(* The same, as a loop of somebody else's would. *)
let rec by_hand condition h =
  if not (condition h) then begin
    let fd = aio_get_fd h and direction = aio_get_direction h in
    let wants what = direction land Int32.to_int what <> 0 in
    check "directions"
      (Int32.logor aio_direction_read aio_direction_write = aio_direction_both);
    let readers = if wants aio_direction_read then [ fd ] else [] in
    let writers = if wants aio_direction_write then [ fd ] else [] in
    (match Unix.select readers writers [] (-1.) with
    | _ :: _, _, _ -> aio_notify_read h
    | _, _ :: _, _ -> aio_notify_write h
    | _ -> ());
    by_hand condition h
  end

let settings () =
  let h = create () in
  check "created" (aio_is_created h && not (aio_is_ready h));
  let lines = ref 0 in
  set_debug_callback h (fun _ _ -> incr lines; 0);
  set_debug h true;
  check "debug" (get_debug h);
  set_handle_name h "mine";
  check "debug lines" (!lines > 0);
  set_debug h false;
  clear_debug_callback h;
  check "name" (get_handle_name h = "mine");
  check "private data" (set_private_data h 42 = 0 && get_private_data h = 42);
  set_export_name h "export";
  check "export name" (get_export_name h = "export");
  set_full_info h true;
  check "full info" (get_full_info h);
  set_tls h TLS.ALLOW;
  check "tls" (get_tls h = TLS.ALLOW && supports_tls h);
  set_tls_certificates h "/nonexistent";
  set_tls_verify_peer h false;
  check "verify peer" (not (get_tls_verify_peer h));
  set_tls_username h "alice";
  check "user name" (get_tls_username h = "alice");
  set_tls_psk_file h "/nonexistent";
  set_request_structured_replies h false;
  check "structured replies" (not (get_request_structured_replies h));
  set_handshake_flags h [ HANDSHAKE_FLAG.FIXED_NEWSTYLE ];
  check "handshake flags" (get_handshake_flags h = [ HANDSHAKE_FLAG.FIXED_NEWSTYLE ]);
  set_strict_mode h [ STRICT.BOUNDS ];
  check "strict mode" (get_strict_mode h = [ STRICT.BOUNDS ]);
  set_opt_mode h true;
  check "option mode" (get_opt_mode h);
  set_uri_allow_transports h [ ALLOW_TRANSPORT.UNIX ];
  set_uri_allow_tls h TLS.DISABLE;
  set_uri_allow_local_file h false;
  check "uris" (supports_uri h);
  refused "a transport that is not allowed" (fun () -> connect_uri h "nbd://localhost");
  add_meta_context h context_base_allocation;
  add_meta_context h (namespace_base ^ "x");
  check "contexts" (get_nr_meta_contexts h = 2 && get_meta_context h 1 = "base:x");
  clear_meta_contexts h;
  check "no contexts" (get_nr_meta_contexts h = 0);
  check "package" (get_package_name h = "libnbd" && get_version h = Sys.getenv "NBD_TEST_LEVEL");
  check "state" (connection_state h <> "");
  refused "no process" (fun () -> kill_subprocess h 0);
  refused "no connection" (fun () -> get_size h);
  refused "no descriptor" (fun () -> aio_get_fd h);
  refused "no commands" (fun () -> aio_in_flight h);
  close h

let abilities h =
  check "size" (get_size h = mebibyte && get_block_size h SIZE.MAXIMUM >= 0L);
  check "writable" (not (is_read_only h) && not (is_rotational h));
  let all = [ can_cache; can_df; can_fast_zero; can_flush; can_fua; can_multi_conn; can_trim; can_zero ] in
  check "abilities" (List.for_all (fun can -> can h) all);
  check "context" (can_meta_context h context_base_allocation);
  check "protocol" (get_protocol h = "newstyle-fixed");
  check "replies" (get_structured_replies_negotiated h && not (get_tls_negotiated h))

let covered entries =
  let sum = ref 0L and status = ref 0L in
  Array.iteri
    (fun i word ->
      if i land 1 = 0 then sum := Int64.add !sum word else status := Int64.logor !status word)
    entries;
  (!sum, Int64.to_int32 !status)

let synchronous () =
  with_handle @@ fun h ->
  add_meta_context h context_base_allocation;
  connect_unix h path;
  check "ready" (aio_is_ready h && not (aio_is_processing h || aio_is_dead h || aio_is_closed h));
  check "uri" (get_uri h = "nbd+unix:///?socket=" ^ path);
  abilities h;
  let data = Bytes.make 4096 'x' and back = Bytes.create 4096 in
  pwrite h data 8192L ~flags:[ CMD_FLAG.FUA ];
  flush h;
  cache h 4096L 8192L;
  pread h back 8192L;
  check "data" (Bytes.equal data back);
  let parts = ref [] in
  let wide = Bytes.create 65536 in
  pread_structured h wide 0L (fun part _ kind _ -> parts := (Int32.of_int kind, Bytes.length part) :: !parts; 0);
  let kinds = [ read_data; read_hole ] in
  check "kinds" (read_error <> read_data && List.for_all (fun (kind, _) -> List.mem kind kinds) !parts);
  check "parts" (List.fold_left (fun sum (_, length) -> sum + length) 0 !parts = 65536);
  zero h 2048L 8192L;
  trim h 2048L 10240L;
  let seen = ref (0L, 0l) in
  block_status h mebibyte 0L (fun _ _ entries _ -> seen := covered entries; 0);
  check "extents" (!seen = (mebibyte, Int32.logor state_hole state_zero));
  refused "beyond the end" (fun () -> pread h back mebibyte);
  refused "connected already" (fun () -> connect_vsock h 1L 1L);
  refused "connected already" (fun () -> aio_connect_vsock h 1L 1L);
  shutdown h ~flags:[ SHUTDOWN.ABANDON_PENDING ];
  check "closed" (aio_is_closed h)

let options () =
  with_handle (fun h ->
      set_opt_mode h true;
      set_full_info h true;
      connect_tcp h host port;
      check "negotiating" (aio_is_negotiating h);
      let names = ref 0 in
      let count = opt_list h (fun _ _ -> incr names; 0) in
      check "list" (count = 1 && !names = 1);
      let contexts = ref [] in
      check "contexts" (opt_list_meta_context h (fun name -> contexts := name :: !contexts; 0) >= 1);
      check "allocation" (List.mem context_base_allocation !contexts);
      opt_info h;
      check "size" (get_size h = mebibyte);
      check "names" (get_canonical_export_name h = "");
      refused "no description" (fun () -> get_export_description h);
      opt_go h;
      check "ready" (aio_is_ready h);
      shutdown h);
  with_handle (fun h ->
      set_opt_mode h true;
      connect_uri h ("nbd+unix:///?socket=" ^ path);
      opt_abort h;
      check "closed" (aio_is_closed h));
  with_handle (fun h ->
      set_opt_mode h true;
      aio_connect_tcp h host port;
      check "connecting" (aio_is_connecting h);
      by_hand aio_is_negotiating h;
      let completed = ref 0 in
      let completion error = check "option" (!error = 0); incr completed; 1 in
      aio_opt_list h (fun _ _ -> 0) ~completion;
      until aio_is_negotiating h;
      ignore (aio_opt_list_meta_context h (fun _ -> 0) ~completion);
      until aio_is_negotiating h;
      aio_opt_info h ~completion;
      until aio_is_negotiating h;
      aio_opt_go h ~completion;
      until aio_is_ready h;
      check "completions" (!completed = 4);
      aio_disconnect h;
      until aio_is_closed h);
  with_handle (fun h ->
      set_opt_mode h true;
      aio_connect_unix h path;
      until aio_is_negotiating h;
      aio_opt_abort h;
      until aio_is_closed h)

let asynchronous () =
  with_handle @@ fun h ->
  add_meta_context h context_base_allocation;
  aio_connect h (Unix.ADDR_UNIX path);
  by_hand aio_is_ready h;
  let finished = ref 0 in
  let completion error = check "command" (!error = 0); incr finished; 1 in
  let idle h = aio_in_flight h = 0 in
  let data = Buffer.of_bytes (Bytes.make 4096 'y') and back = Buffer.alloc 4096 in
  check "buffers" (Buffer.size back = 4096);
  let cookie = aio_pwrite h data 0L in
  until (fun h -> aio_peek_command_completed h = cookie) h;
  check "written" (aio_command_completed h cookie);
  ignore (aio_pread h back 0L ~completion);
  by_hand idle h;
  check "data" (Buffer.to_bytes back = Buffer.to_bytes data);
  ignore (aio_pread_structured h back 0L (fun _ _ _ _ -> 0) ~completion);
  ignore (aio_flush h ~completion);
  ignore (aio_cache h 4096L 0L ~completion);
  ignore (aio_block_status h mebibyte 0L (fun _ _ entries _ -> check "all" (fst (covered entries) = mebibyte); 0) ~completion);
  until idle h;
  ignore (aio_zero h 2048L 0L ~completion);
  ignore (aio_trim h 2048L 2048L ~completion);
  until idle h;
  check "finished" (!finished = 7)

let connected what connect =
  with_handle @@ fun h ->
  connect h;
  until aio_is_ready h;
  check what (get_size h = mebibyte)

let socket () =
  let fd = Unix.socket Unix.PF_UNIX Unix.SOCK_STREAM 0 in
  Unix.connect fd (Unix.ADDR_UNIX path);
  fd

let ways () =
  let uri = "nbd+unix:///?socket=" ^ path in
  let piped = [ "nbdkit"; "-s"; "--exit-with-parent"; "memory"; "1M" ] in
  let activated = [ "nbdkit"; "memory"; "1M" ] in
  connected "socket" (fun h -> connect_socket h (socket ()));
  connected "socket" (fun h -> aio_connect_socket h (socket ()));
  connected "uri" (fun h -> aio_connect_uri h uri);
  connected "command" (fun h -> connect_command h piped; kill_subprocess h 18);
  connected "command" (fun h -> aio_connect_command h piped);
  connected "activation" (fun h -> connect_systemd_socket_activation h activated);
  connected "activation" (fun h -> aio_connect_systemd_socket_activation h activated)

let () =
  settings ();
  synchronous ();
  options ();
  asynchronous ();
  ways ();
  Gc.full_major ()
