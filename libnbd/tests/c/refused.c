/* Arguments and states that do not fit: numbers and texts. */

#include "check.h"

static char buffer[4096];

int
main (int argc UNUSED, char *argv[])
{
  struct nbd_handle *h = create ();
  static char name[5000];
  memset (name, 'x', sizeof name - 1);

  CHECK (nbd_get_errno () == 0 && nbd_get_error () == NULL);

  /* Nothing is connected. The buffer is cleared before anything is looked at. */
  buffer[0] = 'x';
  FAILS (nbd_pread (h, buffer, 512, 0, 0), ENOTCONN);
  CHECK (buffer[0] == 0);
  CHECK (strstr (nbd_get_error (), strerror (ENOTCONN)) != NULL);
  CHECK (nbd_set_pread_initialize (h, false) == 0);
  buffer[0] = 'x';
  FAILS (nbd_aio_pread (h, buffer, 512, 0, NBD_NULL_COMPLETION, 0), ENOTCONN);
  CHECK (buffer[0] == 'x');
  FAILS (nbd_get_size (h), ENOTCONN);
  FAILS (nbd_shutdown (h, 0), ENOTCONN);
  FAILS (nbd_opt_go (h), ENOTCONN);
  FAILS (nbd_aio_in_flight (h), ENOTCONN);
  CHECK (nbd_get_uri (h) == NULL && nbd_get_errno () == ENOTCONN);

  /* Settings. */
  FAILS (nbd_set_export_name (h, name), ENAMETOOLONG);
  FAILS (nbd_add_meta_context (h, name), ENAMETOOLONG);
  FAILS (nbd_set_export_name (h, "\xff"), EINVAL);
  FAILS (nbd_set_tls (h, 3), EINVAL);
  FAILS (nbd_set_tls (h, -1), EINVAL);
  FAILS (nbd_set_handshake_flags (h, 4), EINVAL);
  FAILS (nbd_set_strict_mode (h, LIBNBD_STRICT_MASK + 1), EINVAL);
  FAILS (nbd_set_uri_allow_transports (h, LIBNBD_ALLOW_TRANSPORT_MASK + 1), EINVAL);
  CHECK (nbd_get_strict_mode (h) == LIBNBD_STRICT_MASK);
  CHECK (nbd_get_meta_context (h, 0) == NULL && nbd_get_errno () == EINVAL);

  /* What a URI may not ask for. */
  FAILS (nbd_connect_uri (h, "http://localhost"), EINVAL);
  FAILS (nbd_connect_uri (h, "nbds://localhost/?tls-certificates=/nowhere"), EPERM);
  CHECK (nbd_set_uri_allow_transports (h, LIBNBD_ALLOW_TRANSPORT_TCP) == 0);
  FAILS (nbd_connect_uri (h, argv[1]), EPERM);
  CHECK (nbd_set_uri_allow_tls (h, LIBNBD_TLS_REQUIRE) == 0);
  FAILS (nbd_connect_uri (h, "nbd://localhost"), EPERM);
  CHECK (nbd_aio_is_created (h) == 1);
  nbd_close (h);

  h = connected (argv[1]);
  FAILS (nbd_connect_uri (h, argv[1]), EINVAL);
  FAILS (nbd_set_tls (h, LIBNBD_TLS_ALLOW), EINVAL);
  FAILS (nbd_opt_go (h), EINVAL);
  FAILS (nbd_get_block_size (h, 99), EINVAL);
  FAILS (nbd_kill_subprocess (h, 0), ESRCH);
  FAILS (nbd_kill_subprocess (h, -1), EINVAL);

  /* Commands. */
  FAILS (nbd_pread (h, buffer, 512, 0, LIBNBD_CMD_FLAG_DF), EINVAL);
  FAILS (nbd_pread (h, buffer, 512, 0, 0x10000), EINVAL);
  FAILS (nbd_pread (h, buffer, 512, (1 << 20) - 256, 0), EINVAL);
  FAILS (nbd_pwrite (h, buffer, 512, 1 << 20, 0), ENOSPC);
  FAILS (nbd_pread (h, buffer, 0, 0, 0), EINVAL);
  FAILS (nbd_flush (h, LIBNBD_CMD_FLAG_FUA), EINVAL);
  FAILS (nbd_shutdown (h, 1), EINVAL);
  FAILS (nbd_aio_disconnect (h, 1), EINVAL);
  CHECK (nbd_set_strict_mode (h, 0) == 0);
  FAILS (nbd_pread (h, buffer, 512, 0, 0x10000), EINVAL);
  FAILS (nbd_pread (h, buffer, 512, 1 << 20, 0), EINVAL);
  FAILS (nbd_pread (h, buffer, (size_t)1 << 40, 0, 0), ERANGE);
  /* It is still in order. */
  CHECK (nbd_pread (h, buffer, 512, 0, 0) == 0);
  nbd_close (h);

  /* Nobody is there: by a path it is over, by a port another can be tried. */
  h = create ();
  FAILS (nbd_connect_unix (h, "/nowhere/at/all"), ENOENT);
  CHECK (nbd_aio_is_dead (h) == 1);
  nbd_close (h);
  h = create ();
  FAILS (nbd_connect_unix (h, name), ENAMETOOLONG);
  nbd_close (h);
  h = create ();
  FAILS (nbd_connect_tcp (h, "127.0.0.1", "1"), ECONNREFUSED);
  CHECK (nbd_aio_is_created (h) == 1);
  CHECK (nbd_connect_uri (h, argv[1]) == 0);
  nbd_close (h);
  h = create ();
  FAILS (nbd_connect_socket (h, -1), EBADF);
  nbd_close (h);
  return 0;
}
