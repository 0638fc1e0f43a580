// The functions of the library, once: `lib.rs` makes wrappers of it, `cargo xtask capi` the
// header and the symbols' versions.
//
//     /// What it does, for the header.
//     "1.0" nbd_name(argument: kind, ...) -> result [states in which it may be called]
//         locked |h| what is called;
//
// `locked` calls hold the handle's lock, `published` ones do not and see what was published last,
// `constant` ones need no handle, `bare` ones are written by hand. `clears` names a buffer that
// is cleared before anything can fail.

functions! {
    /// Makes a handle. NULL when there is no memory.
    "1.0" nbd_create() -> handle [any] bare |_h| ();
    /// Ends the connection, if there is one, and frees the handle, which may be NULL. A program
    /// that was started is waited for.
    "1.0" nbd_close() -> nothing [any] bare |_h| ();
    /// Why the last call of this thread that failed did so; NULL when none has. It is good until
    /// the next one fails.
    "1.0" nbd_get_error() -> fixed [any] bare |_h| ();
    /// The error number of the last call of this thread that failed, or 0.
    "1.0" nbd_get_errno() -> int [any] bare |_h| ();

    /// Switches debug messages on or off. Environment variable LIBNBD_DEBUG=1 sets the default.
    "1.0" nbd_set_debug(debug: flag) -> err [any] locked |h| { h.set_debug(debug); Ok(()) };
    /// Whether debug messages are on.
    "1.0" nbd_get_debug() -> truth [any] locked |h| Ok(h.is_debugged());
    /// Where debug messages go, in place of standard error.
    "1.0" nbd_set_debug_callback(debug_callback: debug) -> err [any]
        locked |h| { h.set_debug_callback(Some(debug_callback)); Ok(()) };
    /// Debug messages go to standard error again.
    "1.0" nbd_clear_debug_callback() -> err [any]
        locked |h| { h.set_debug_callback(None); Ok(()) };

    /// Bytes of the protocol that were sent.
    "1.16" nbd_stats_bytes_sent() -> u64 [any] locked |h| Ok(h.stats().bytes_sent);
    /// Messages of the protocol that were sent.
    "1.16" nbd_stats_chunks_sent() -> u64 [any] locked |h| Ok(h.stats().messages_sent);
    /// Bytes of the protocol that were received.
    "1.16" nbd_stats_bytes_received() -> u64 [any] locked |h| Ok(h.stats().bytes_received);
    /// Messages of the protocol that were received.
    "1.16" nbd_stats_chunks_received() -> u64 [any] locked |h| Ok(h.stats().messages_received);

    /// What the handle is called in debug messages.
    "1.0" nbd_set_handle_name(handle_name: str) -> err [any]
        locked |h| { h.set_name(handle_name); Ok(()) };
    /// What the handle is called in debug messages.
    "1.0" nbd_get_handle_name() -> text [any] locked |h| Ok(h.name().to_owned());
    /// Keeps a word of the caller's, and returns the one before.
    "1.8" nbd_set_private_data(private_data: word) -> word [any]
        published |h| Ok(h.set_private_data(private_data));
    /// The word of the caller's.
    "1.8" nbd_get_private_data() -> word [any] published |h| Ok(h.private_data());
    /// Bytes that a handle takes, without what belongs to a connection.
    "1.24" nbd_get_handle_size() -> ssize [any] constant |_h| Ok(size_of::<NbdHandle>() as i64);

    /// The name of the export to ask for; at most 4096 bytes of UTF-8.
    "1.0" nbd_set_export_name(export_name: str) -> err [created negotiating]
        locked |h| h.set_export_name(export_name);
    /// The name of the export that is asked for.
    "1.0" nbd_get_export_name() -> text [any] locked |h| Ok(h.export_name().to_owned());
    /// Whether to ask for block sizes, and so to promise to honour them.
    "1.12" nbd_set_request_block_size(request: flag) -> err [created negotiating]
        locked |h| { h.set_request_block_size(request); Ok(()) };
    /// Whether block sizes are asked for.
    "1.12" nbd_get_request_block_size() -> truth [any] locked |h| Ok(h.requests_block_size());
    /// Whether to ask for the export's canonical name and description.
    "1.4" nbd_set_full_info(request: flag) -> err [created negotiating]
        locked |h| { h.set_full_info(request); Ok(()) };
    /// Whether the export's canonical name and description are asked for.
    "1.4" nbd_get_full_info() -> truth [any] locked |h| Ok(h.requests_full_info());
    /// The server's own name for the export.
    "1.4" nbd_get_canonical_export_name() -> text [negotiating connected closed]
        locked |h| h.canonical_name();
    /// The server's words about the export.
    "1.4" nbd_get_export_description() -> text [negotiating connected closed]
        locked |h| h.description();

    /// Whether TLS is used: one of LIBNBD_TLS_.
    "1.0" nbd_set_tls(tls: tls) -> err [created] locked |h| { h.set_tls(tls); Ok(()) };
    /// Whether TLS is used.
    "1.0" nbd_get_tls() -> int [any] locked |h| Ok(tls_number(h.tls()));
    /// Whether the connection is encrypted.
    "1.2" nbd_get_tls_negotiated() -> truth [negotiating connected closed]
        locked |h| Ok(h.is_tls());
    /// The directory with ca-cert.pem, client-cert.pem, client-key.pem and ca-crl.pem. It is read
    /// when the server has agreed to TLS.
    "1.0" nbd_set_tls_certificates(dir: path) -> err [created]
        locked |h| { h.set_tls_certificates(dir); Ok(()) };
    /// Whether the server's certificate is checked. Without this call it is, unless the server is
    /// a local one and neither a directory of certificates nor a host name was set.
    "1.0" nbd_set_tls_verify_peer(verify: flag) -> err [created]
        locked |h| { h.set_tls_verify_peer(verify); Ok(()) };
    /// Whether the server's certificate is checked.
    "1.0" nbd_get_tls_verify_peer() -> truth [any] locked |h| Ok(h.tls_verify_peer());
    /// Whose pre-shared key is used.
    "1.0" nbd_set_tls_username(username: str) -> err [created]
        locked |h| { h.set_tls_username(username); Ok(()) };
    /// Whose pre-shared key is used; by default, of who runs the program.
    "1.0" nbd_get_tls_username() -> text [any] locked |h| h.tls_username();
    /// The name that the server's certificate must have, in place of the host's.
    "1.22" nbd_set_tls_hostname(hostname: str) -> err [created]
        locked |h| { h.set_tls_hostname(hostname); Ok(()) };
    /// The name that the server's certificate must have; empty if any will do.
    "1.22" nbd_get_tls_hostname() -> text [any] locked |h| Ok(h.tls_hostname());
    /// The file with pre-shared keys, a line "username:hexkey" for each. It is read when the
    /// server has agreed to TLS.
    "1.0" nbd_set_tls_psk_file(filename: path) -> err [created]
        locked |h| { h.set_tls_psk_file(filename); Ok(()) };
    /// Would choose ciphers in the language of GnuTLS, which this library does not use: all but
    /// the empty string fails with ENOTSUP.
    "1.24" nbd_set_tls_priority(priority: str) -> err [created]
        locked |h| h.set_tls_priority(priority);
    /// The empty string.
    "1.24" nbd_get_tls_priority() -> text [any] locked |h| Ok(h.tls_priority().to_owned());

    /// Whether to ask for extended headers.
    "1.18" nbd_set_request_extended_headers(request: flag) -> err [created]
        locked |h| { h.set_request_extended_headers(request); Ok(()) };
    /// Whether extended headers are asked for.
    "1.18" nbd_get_request_extended_headers() -> truth [any]
        locked |h| Ok(h.requests_extended_headers());
    /// Whether extended headers are in use.
    "1.18" nbd_get_extended_headers_negotiated() -> truth [negotiating connected closed]
        locked |h| Ok(h.has_extended_headers());
    /// Whether to ask for structured replies.
    "1.2" nbd_set_request_structured_replies(request: flag) -> err [created]
        locked |h| { h.set_request_structured_replies(request); Ok(()) };
    /// Whether structured replies are asked for.
    "1.2" nbd_get_request_structured_replies() -> truth [any]
        locked |h| Ok(h.requests_structured_replies());
    /// Whether structured replies are in use.
    "1.2" nbd_get_structured_replies_negotiated() -> truth [negotiating connected closed]
        locked |h| Ok(h.has_structured_replies());
    /// Whether meta contexts are selected before the export is chosen.
    "1.16" nbd_set_request_meta_context(request: flag) -> err [created negotiating]
        locked |h| { h.set_request_meta_context(request); Ok(()) };
    /// Whether meta contexts are selected before the export is chosen.
    "1.16" nbd_get_request_meta_context() -> truth [any]
        locked |h| Ok(h.requests_meta_context());
    /// Which of the handshake flags that the server offers are accepted.
    "1.2" nbd_set_handshake_flags(flags: bits) -> err [created]
        locked |h| h.set_handshake_flags(flags);
    /// Which handshake flags are accepted.
    "1.2" nbd_get_handshake_flags() -> bits [any] locked |h| Ok(h.handshake_flags());
    /// Whether the buffers of reads are cleared before anything else.
    "1.12" nbd_set_pread_initialize(request: flag) -> err [any]
        locked |h| { h.set_pread_initialize(request); Ok(()) };
    /// Whether the buffers of reads are cleared.
    "1.12" nbd_get_pread_initialize() -> truth [any] locked |h| Ok(h.pread_initialize());
    /// What is checked before a command is sent: LIBNBD_STRICT_ bits.
    "1.6" nbd_set_strict_mode(flags: bits) -> err [any] locked |h| h.set_strict(flags);
    /// What is checked before a command is sent.
    "1.6" nbd_get_strict_mode() -> bits [any] locked |h| Ok(h.strict());
    /// Whether the negotiation stops for the caller to choose options.
    "1.4" nbd_set_opt_mode(enable: flag) -> err [created]
        locked |h| { h.set_option_mode(enable); Ok(()) };
    /// Whether the negotiation stops.
    "1.4" nbd_get_opt_mode() -> truth [any] locked |h| Ok(h.option_mode());

    /// Chooses the export; commands are accepted then.
    "1.4" nbd_opt_go() -> err [negotiating]
        locked |h| h.option(OptionCall::go()).map(drop);
    /// Ends the negotiation.
    "1.4" nbd_opt_abort() -> err [negotiating]
        locked |h| h.option(OptionCall::abort()).map(drop);
    /// Asks for TLS. Whether the server agreed.
    "1.16" nbd_opt_starttls() -> int [negotiating] locked |h| h.option(OptionCall::start_tls());
    /// Asks for extended headers. Whether the server agreed.
    "1.18" nbd_opt_extended_headers() -> int [negotiating]
        locked |h| h.option(OptionCall::extended_headers());
    /// Asks for structured replies. Whether the server agreed.
    "1.16" nbd_opt_structured_reply() -> int [negotiating]
        locked |h| h.option(OptionCall::structured_replies());
    /// Calls back for each export. How many there are.
    "1.4" nbd_opt_list(list_callback: list) -> int [negotiating]
        locked |h| h.option(OptionCall::list(list_callback));
    /// Asks what the export is like, without choosing it.
    "1.4" nbd_opt_info() -> err [negotiating]
        locked |h| h.option(OptionCall::info()).map(drop);
    /// Calls back for each meta context that fits those that are asked for. How many there are.
    "1.6" nbd_opt_list_meta_context(context_callback: context) -> int [negotiating]
        locked |h| h.option(OptionCall::list_meta_contexts(wanted(h), context_callback));
    /// Calls back for each meta context that fits the queries. How many there are.
    "1.16" nbd_opt_list_meta_context_queries(queries: strs, context_callback: context) -> int
        [negotiating]
        locked |h| h.option(OptionCall::list_meta_contexts(queries, context_callback));
    /// Selects the meta contexts that are asked for, and calls back for each that is granted.
    "1.16" nbd_opt_set_meta_context(context_callback: context) -> int [negotiating]
        locked |h| h.option(OptionCall::set_meta_contexts(wanted(h), context_callback));
    /// Selects the meta contexts that fit the queries, and calls back for each that is granted.
    "1.16" nbd_opt_set_meta_context_queries(queries: strs, context_callback: context) -> int
        [negotiating]
        locked |h| h.option(OptionCall::set_meta_contexts(queries, context_callback));

    /// Adds a meta context to ask for, such as LIBNBD_CONTEXT_BASE_ALLOCATION.
    "1.0" nbd_add_meta_context(name: str) -> err [created negotiating]
        locked |h| h.add_meta_context(name);
    /// How many meta contexts are asked for.
    "1.6" nbd_get_nr_meta_contexts() -> ssize [any] locked |h| Ok(h.meta_contexts().len() as i64);
    /// One of the meta contexts that are asked for, counted from 0.
    "1.6" nbd_get_meta_context(i: size) -> text [any]
        locked |h| h.meta_contexts().get(i).cloned().ok_or_else(|| Fail::invalid("no such meta context"));
    /// Asks for no meta context.
    "1.6" nbd_clear_meta_contexts() -> err [created negotiating]
        locked |h| { h.clear_meta_contexts(); Ok(()) };

    /// Which transports a URI may ask for: LIBNBD_ALLOW_TRANSPORT_ bits.
    "1.2" nbd_set_uri_allow_transports(mask: bits) -> err [created]
        locked |h| h.set_uri_transports(mask);
    /// Whether a URI may, must or must not ask for TLS.
    "1.2" nbd_set_uri_allow_tls(tls: tls) -> err [created]
        locked |h| { h.set_uri_tls(tls); Ok(()) };
    /// Whether a URI may choose ciphers.
    "1.24" nbd_set_uri_allow_tls_priority(allow: flag) -> err [created]
        locked |h| { h.set_uri_tls_priority(allow); Ok(()) };
    /// Whether a URI may name local files.
    "1.2" nbd_set_uri_allow_local_file(allow: flag) -> err [created]
        locked |h| { h.set_uri_local_files(allow); Ok(()) };

    /// Connects to a URI.
    "1.0" nbd_connect_uri(uri: str) -> err [created]
        locked |h| h.connect(Destination::Uri(uri.to_owned()));
    /// Connects to a Unix socket.
    "1.0" nbd_connect_unix(unixsocket: path) -> err [created]
        locked |h| h.connect(Destination::Unix(unixsocket));
    /// Connects to a vsock port.
    "1.2" nbd_connect_vsock(cid: bits, port: bits) -> err [created]
        locked |h| h.connect(Destination::Vsock { cid, port });
    /// Connects to a port of a host.
    "1.0" nbd_connect_tcp(hostname: str, port: str) -> err [created]
        locked |h| h.connect(tcp(hostname, port));
    /// Goes on with a socket that is connected. It is the library's from now on, even if this
    /// fails.
    "1.2" nbd_connect_socket(sock: socket) -> err [created]
        locked |h| h.connect(Destination::Socket(sock));
    /// Starts a program and connects to its standard input and output.
    "1.0" nbd_connect_command(argv: argv) -> err [created]
        locked |h| h.connect(Destination::Command(argv));
    /// Starts a program that takes its socket from systemd's convention, and connects to it.
    "1.2" nbd_connect_systemd_socket_activation(argv: argv) -> err [created]
        locked |h| h.connect(Destination::Activation(argv));
    /// What such a program sees as its socket's name; empty for "unknown".
    "1.16" nbd_set_socket_activation_name(socket_name: str) -> err [created]
        locked |h| h.set_activation_name(socket_name);
    /// What such a program sees as its socket's name.
    "1.16" nbd_get_socket_activation_name() -> text [any]
        locked |h| Ok(h.activation_name().to_owned());

    /// Whether the export is not written to.
    "1.0" nbd_is_read_only() -> truth [negotiating connected closed]
        locked |h| h.can(Ability::ReadOnly);
    /// Whether the export understands flush.
    "1.0" nbd_can_flush() -> truth [negotiating connected closed]
        locked |h| h.can(Ability::Flush);
    /// Whether the export understands LIBNBD_CMD_FLAG_FUA.
    "1.0" nbd_can_fua() -> truth [negotiating connected closed] locked |h| h.can(Ability::Fua);
    /// Whether the export is a rotating disk.
    "1.0" nbd_is_rotational() -> truth [negotiating connected closed]
        locked |h| h.can(Ability::Rotational);
    /// Whether the export understands trim.
    "1.0" nbd_can_trim() -> truth [negotiating connected closed] locked |h| h.can(Ability::Trim);
    /// Whether the export understands write zeroes.
    "1.0" nbd_can_zero() -> truth [negotiating connected closed] locked |h| h.can(Ability::Zero);
    /// Whether the export understands LIBNBD_CMD_FLAG_FAST_ZERO.
    "1.2" nbd_can_fast_zero() -> truth [negotiating connected closed]
        locked |h| h.can(Ability::FastZero);
    /// Whether a block status can be about some meta contexts only.
    "1.18" nbd_can_block_status_payload() -> truth [negotiating connected closed]
        locked |h| h.can(Ability::BlockStatusPayload);
    /// Whether the export understands LIBNBD_CMD_FLAG_DF.
    "1.0" nbd_can_df() -> truth [negotiating connected closed] locked |h| h.can(Ability::Df);
    /// Whether several connections see one disk.
    "1.0" nbd_can_multi_conn() -> truth [negotiating connected closed]
        locked |h| h.can(Ability::MultiConn);
    /// Whether the export understands cache.
    "1.0" nbd_can_cache() -> truth [negotiating connected closed] locked |h| h.can(Ability::Cache);
    /// Whether a meta context was granted.
    "1.0" nbd_can_meta_context(metacontext: str) -> truth [negotiating connected closed]
        locked |h| h.can_meta_context(metacontext);
    /// Which negotiation was spoken: "oldstyle", "newstyle" or "newstyle-fixed".
    "1.2" nbd_get_protocol() -> fixed [negotiating connected closed]
        locked |h| Ok(fixed(h.protocol()));
    /// The size of the export in bytes.
    "1.0" nbd_get_size() -> i64 [negotiating connected closed] locked |h| h.size();
    /// A block size in bytes, one of LIBNBD_SIZE_; 0 if the server told none.
    "1.4" nbd_get_block_size(size_type: int) -> i64 [negotiating connected closed]
        locked |h| block_size(h, size_type);

    /// Reads.
    "1.0" nbd_pread(buf: buf_out, count: size, offset: u64, flags: cmd_flags) -> err [connected], clears (buf, count)
        locked |h| h.perform(Request::read(buf.of(count), offset, flags));
    /// Reads, and calls back for each part of the answer.
    "1.0" nbd_pread_structured(buf: buf_out, count: size, offset: u64, chunk_callback: chunk, flags: cmd_flags) -> err
        [connected], clears (buf, count)
        locked |h| h.perform(Request::read_structured(buf.of(count), offset, flags, chunk_callback));
    /// Writes.
    "1.0" nbd_pwrite(buf: buf_in, count: size, offset: u64, flags: cmd_flags) -> err [connected]
        locked |h| h.perform(Request::write(buf.of(count), offset, flags));
    /// Ends the connection after what was submitted has been sent, or, with
    /// LIBNBD_SHUTDOWN_ABANDON_PENDING, after what is partly sent; and waits for the end.
    "1.0" nbd_shutdown(flags: bits) -> err [shutdown] locked |h| shut_down(h, flags);
    /// Makes everything durable whose completion has been seen.
    "1.0" nbd_flush(flags: cmd_flags) -> err [connected] locked |h| h.perform(Request::flush(flags));
    /// The data of the range is no longer needed.
    "1.0" nbd_trim(count: u64, offset: u64, flags: cmd_flags) -> err [connected]
        locked |h| h.perform(Request::trim(offset, count, flags));
    /// The range will be read soon.
    "1.0" nbd_cache(count: u64, offset: u64, flags: cmd_flags) -> err [connected]
        locked |h| h.perform(Request::cache(offset, count, flags));
    /// Makes the range read as zeroes.
    "1.0" nbd_zero(count: u64, offset: u64, flags: cmd_flags) -> err [connected]
        locked |h| h.perform(Request::zero(offset, count, flags));
    /// Calls back with the extents of the range, pairs of length and status, for each meta context.
    "1.0" nbd_block_status(count: u64, offset: u64, extent_callback: extent, flags: cmd_flags) -> err
        [connected]
        locked |h| h.perform(Request::block_status(offset, count, flags, extent_callback));
    /// The same, with 64 bits each.
    "1.18" nbd_block_status_64(count: u64, offset: u64, extent64_callback: extent64, flags: cmd_flags) -> err
        [connected]
        locked |h| h.perform(Request::block_status(offset, count, flags, extent64_callback));
    /// The same, of some of the meta contexts only.
    "1.18" nbd_block_status_filter(count: u64, offset: u64, contexts: strs, extent64_callback: extent64, flags: cmd_flags) -> err
        [connected]
        locked |h| h.perform(Request::block_status(offset, count, flags, extent64_callback).only(contexts));

    /// Sends and receives what there is, waiting up to so many milliseconds, or for ever at -1.
    /// 1 if something has happened, 0 if not.
    "1.0" nbd_poll(timeout: int) -> int [any] locked |h| poll(h, None, timeout);
    /// The same; 2 if the other descriptor has something to read.
    "1.16" nbd_poll2(fd: other_fd, timeout: int) -> int [any] locked |h| poll(h, fd, timeout);

    /// Begins to connect to an address.
    "1.0" nbd_aio_connect(addr: sockaddr, addrlen: socklen) -> err [created]
        locked |h| h.start_connecting(addr.of(addrlen)?);
    /// Begins to connect to a URI.
    "1.0" nbd_aio_connect_uri(uri: str) -> err [created]
        locked |h| h.start_connecting(Destination::Uri(uri.to_owned()));
    /// Begins to connect to a Unix socket.
    "1.0" nbd_aio_connect_unix(unixsocket: path) -> err [created]
        locked |h| h.start_connecting(Destination::Unix(unixsocket));
    /// Begins to connect to a vsock port.
    "1.2" nbd_aio_connect_vsock(cid: bits, port: bits) -> err [created]
        locked |h| h.start_connecting(Destination::Vsock { cid, port });
    /// Begins to connect to a port of a host, whose name is looked up at once.
    "1.0" nbd_aio_connect_tcp(hostname: str, port: str) -> err [created]
        locked |h| h.start_connecting(tcp(hostname, port));
    /// Goes on with a socket that is connected; see nbd_connect_socket.
    "1.2" nbd_aio_connect_socket(sock: socket) -> err [created]
        locked |h| h.start_connecting(Destination::Socket(sock));
    /// Starts a program; see nbd_connect_command.
    "1.0" nbd_aio_connect_command(argv: argv) -> err [created]
        locked |h| h.start_connecting(Destination::Command(argv));
    /// Starts a program; see nbd_connect_systemd_socket_activation.
    "1.2" nbd_aio_connect_systemd_socket_activation(argv: argv) -> err [created]
        locked |h| h.start_connecting(Destination::Activation(argv));

    /// Begins to choose the export.
    "1.4" nbd_aio_opt_go(completion_callback: completion) -> err [negotiating]
        locked |h| h.start_option(OptionCall::go().on_completion(completion_callback));
    /// Begins to end the negotiation.
    "1.4" nbd_aio_opt_abort() -> err [negotiating]
        locked |h| h.start_option(OptionCall::abort());
    /// Begins to ask for TLS.
    "1.16" nbd_aio_opt_starttls(completion_callback: completion) -> err [negotiating]
        locked |h| h.start_option(OptionCall::start_tls().on_completion(completion_callback));
    /// Begins to ask for extended headers.
    "1.18" nbd_aio_opt_extended_headers(completion_callback: completion) -> err [negotiating]
        locked |h| h.start_option(OptionCall::extended_headers().on_completion(completion_callback));
    /// Begins to ask for structured replies.
    "1.16" nbd_aio_opt_structured_reply(completion_callback: completion) -> err [negotiating]
        locked |h| h.start_option(OptionCall::structured_replies().on_completion(completion_callback));
    /// Begins to list exports.
    "1.4" nbd_aio_opt_list(list_callback: list, completion_callback: completion) -> err
        [negotiating]
        locked |h| h.start_option(OptionCall::list(list_callback).on_completion(completion_callback));
    /// Begins to ask what the export is like.
    "1.4" nbd_aio_opt_info(completion_callback: completion) -> err [negotiating]
        locked |h| h.start_option(OptionCall::info().on_completion(completion_callback));
    /// Begins to list meta contexts.
    "1.6" nbd_aio_opt_list_meta_context(context_callback: context, completion_callback: completion) -> err
        [negotiating]
        locked |h| h.start_option(OptionCall::list_meta_contexts(wanted(h), context_callback).on_completion(completion_callback));
    /// Begins to list meta contexts that fit the queries.
    "1.16" nbd_aio_opt_list_meta_context_queries(queries: strs, context_callback: context, completion_callback: completion) -> err
        [negotiating]
        locked |h| h.start_option(OptionCall::list_meta_contexts(queries, context_callback).on_completion(completion_callback));
    /// Begins to select meta contexts.
    "1.16" nbd_aio_opt_set_meta_context(context_callback: context, completion_callback: completion) -> err
        [negotiating]
        locked |h| h.start_option(OptionCall::set_meta_contexts(wanted(h), context_callback).on_completion(completion_callback));
    /// Begins to select meta contexts that fit the queries.
    "1.16" nbd_aio_opt_set_meta_context_queries(queries: strs, context_callback: context, completion_callback: completion) -> err
        [negotiating]
        locked |h| h.start_option(OptionCall::set_meta_contexts(queries, context_callback).on_completion(completion_callback));

    /// Begins to read. The buffer is the library's until the command is retired. Returns the
    /// command's number.
    "1.0" nbd_aio_pread(buf: buf_out, count: size, offset: u64, completion_callback: completion, flags: cmd_flags) -> i64
        [connected], clears (buf, count)
        locked |h| h.submit(Request::read(buf.of(count), offset, flags).on_completion(completion_callback));
    /// Begins to read, and calls back for each part of the answer.
    "1.0" nbd_aio_pread_structured(buf: buf_out, count: size, offset: u64, chunk_callback: chunk, completion_callback: completion, flags: cmd_flags) -> i64
        [connected], clears (buf, count)
        locked |h| h.submit(Request::read_structured(buf.of(count), offset, flags, chunk_callback).on_completion(completion_callback));
    /// Begins to write. The buffer must not change until the command is retired.
    "1.0" nbd_aio_pwrite(buf: buf_in, count: size, offset: u64, completion_callback: completion, flags: cmd_flags) -> i64
        [connected]
        locked |h| h.submit(Request::write(buf.of(count), offset, flags).on_completion(completion_callback));
    /// Begins to end the connection.
    "1.0" nbd_aio_disconnect(flags: cmd_flags) -> err [connected]
        locked |h| { no_flags(flags)?; h.disconnect(Shutdown::AfterRequests) };
    /// Begins to flush.
    "1.0" nbd_aio_flush(completion_callback: completion, flags: cmd_flags) -> i64 [connected]
        locked |h| h.submit(Request::flush(flags).on_completion(completion_callback));
    /// Begins to trim.
    "1.0" nbd_aio_trim(count: u64, offset: u64, completion_callback: completion, flags: cmd_flags) -> i64
        [connected]
        locked |h| h.submit(Request::trim(offset, count, flags).on_completion(completion_callback));
    /// Begins to cache.
    "1.0" nbd_aio_cache(count: u64, offset: u64, completion_callback: completion, flags: cmd_flags) -> i64
        [connected]
        locked |h| h.submit(Request::cache(offset, count, flags).on_completion(completion_callback));
    /// Begins to write zeroes.
    "1.0" nbd_aio_zero(count: u64, offset: u64, completion_callback: completion, flags: cmd_flags) -> i64
        [connected]
        locked |h| h.submit(Request::zero(offset, count, flags).on_completion(completion_callback));
    /// Begins to ask for extents.
    "1.0" nbd_aio_block_status(count: u64, offset: u64, extent_callback: extent, completion_callback: completion, flags: cmd_flags) -> i64
        [connected]
        locked |h| h.submit(Request::block_status(offset, count, flags, extent_callback).on_completion(completion_callback));
    /// The same, with 64 bits each.
    "1.18" nbd_aio_block_status_64(count: u64, offset: u64, extent64_callback: extent64, completion_callback: completion, flags: cmd_flags) -> i64
        [connected]
        locked |h| h.submit(Request::block_status(offset, count, flags, extent64_callback).on_completion(completion_callback));
    /// The same, of some of the meta contexts only.
    "1.18" nbd_aio_block_status_filter(count: u64, offset: u64, contexts: strs, extent64_callback: extent64, completion_callback: completion, flags: cmd_flags) -> i64
        [connected]
        locked |h| h.submit(Request::block_status(offset, count, flags, extent64_callback).only(contexts).on_completion(completion_callback));

    /// The descriptor to wait for, which may change while connecting.
    "1.0" nbd_aio_get_fd() -> int [any] locked |h| h.fd();
    /// What to wait for: LIBNBD_AIO_DIRECTION_, or 0.
    "1.0" nbd_aio_get_direction() -> uint [any] published |h| Ok(u32::from(h.direction()));
    /// The descriptor can be read from.
    "1.0" nbd_aio_notify_read() -> err [any] locked |h| h.notify_read();
    /// The descriptor can be written to.
    "1.0" nbd_aio_notify_write() -> err [any] locked |h| h.notify_write();
    /// Whether nothing has been connected to.
    "1.0" nbd_aio_is_created() -> truth [any] published |h| Ok(h.state() == State::Created);
    /// Whether it is connecting, or waits for the answer to an option.
    "1.0" nbd_aio_is_connecting() -> truth [any] published |h| Ok(h.state() == State::Connecting);
    /// Whether it waits for an option to be chosen.
    "1.4" nbd_aio_is_negotiating() -> truth [any] published |h| Ok(h.state() == State::Negotiating);
    /// Whether it is connected, and nothing waits to be sent.
    "1.0" nbd_aio_is_ready() -> truth [any] published |h| Ok(h.state() == State::Ready);
    /// Whether it is connected, and something waits to be sent.
    "1.0" nbd_aio_is_processing() -> truth [any] published |h| Ok(h.state() == State::Processing);
    /// Whether the connection ended in error.
    "1.0" nbd_aio_is_dead() -> truth [any] published |h| Ok(h.state() == State::Dead);
    /// Whether the connection ended in good order.
    "1.0" nbd_aio_is_closed() -> truth [any] published |h| Ok(h.state() == State::Closed);
    /// Whether a command is finished, which retires it. Fails if the command did.
    "1.0" nbd_aio_command_completed(cookie: u64) -> truth [any] locked |h| h.retire(cookie);
    /// The command that finished first among those that were not retired; 0 if none has.
    "1.0" nbd_aio_peek_command_completed() -> i64 [any] locked |h| h.peek_completed();
    /// Commands that were not answered.
    "1.0" nbd_aio_in_flight() -> int [connected closed dead] published |h| Ok(h.in_flight());
    /// The state in words, for people.
    "1.0" nbd_connection_state() -> fixed [any] locked |h| Ok(fixed(h.state_name()));

    /// "libnbd".
    "1.0" nbd_get_package_name() -> fixed [any] constant |_h| Ok(c"libnbd");
    /// The release of libnbd whose interface this is.
    "1.0" nbd_get_version() -> fixed [any] constant |_h| Ok(version());
    /// What this implementation is.
    "1.24" nbd_get_version_extra() -> fixed [any] constant |_h| Ok(c"nbd in Rust");
    /// Sends a signal to the program that was started; 0 is SIGTERM.
    "1.0" nbd_kill_subprocess(signum: int) -> err [any] locked |h| h.kill_subprocess(signum);
    /// The id of the program that was started.
    "1.22" nbd_get_subprocess_pid() -> i64 [any] locked |h| h.subprocess().map(i64::from);
    /// Whether this library was built with TLS.
    "1.0" nbd_supports_tls() -> truth [any] constant |_h| Ok(cfg!(feature = "tls"));
    /// Whether this system has vsock.
    "1.16" nbd_supports_vsock() -> truth [any] constant |_h| Ok(cfg!(target_os = "linux"));
    /// Whether URIs are understood.
    "1.0" nbd_supports_uri() -> truth [any] constant |_h| Ok(true);
    /// A URI that leads to the same export.
    "1.8" nbd_get_uri() -> text [connecting negotiating connected closed dead]
        locked |h| h.uri();
    /// Whether a text begins like an NBD URI.
    "1.22" nbd_is_uri(uri: str) -> truth [any] locked |_h| Ok(is_uri(uri));
}
