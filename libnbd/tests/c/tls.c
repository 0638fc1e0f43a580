/* TLS with a pre-shared key: asked for at once, by hand, not offered, not granted.
 * Arguments: a server that demands it, one that has none, the file of keys. */

#include "check.h"

static void
trust (struct nbd_handle *h, int tls, const char *user, const char *keys)
{
  CHECK (nbd_set_tls (h, tls) == 0);
  CHECK (nbd_set_tls_username (h, user) == 0);
  CHECK (nbd_set_tls_psk_file (h, keys) == 0);
}

int
main (int argc UNUSED, char *argv[])
{
  static char buffer[512];
  const char *with = argv[1], *without = argv[2], *keys = argv[3];

  CHECK (nbd_supports_tls (NULL) == 1);
  struct nbd_handle *h = create ();
  trust (h, LIBNBD_TLS_REQUIRE, "alice", keys);
  CHECK (nbd_connect_unix (h, with) == 0);
  CHECK (nbd_get_tls_negotiated (h) == 1);
  CHECK (nbd_pread (h, buffer, sizeof buffer, 0, 0) == 0);
  char *uri = nbd_get_uri (h);
  CHECK (uri != NULL && strncmp (uri, "nbds+unix://alice@/?", 20) == 0);
  free (uri);
  CHECK (nbd_shutdown (h, 0) == 0 && nbd_aio_is_closed (h) == 1);
  nbd_close (h);

  /* Nobody has this key. */
  h = create ();
  trust (h, LIBNBD_TLS_REQUIRE, "mallory", keys);
  CHECK (nbd_connect_unix (h, with) == -1 && nbd_aio_is_dead (h) == 1);
  nbd_close (h);
  h = create ();
  trust (h, LIBNBD_TLS_ALLOW, "alice", "/nowhere");
  CHECK (nbd_connect_unix (h, with) == -1 && nbd_aio_is_dead (h) == 1);
  nbd_close (h);

  /* A server without it: what would have been used is not looked at. */
  h = create ();
  trust (h, LIBNBD_TLS_ALLOW, "alice", "/nowhere");
  CHECK (nbd_connect_unix (h, without) == 0);
  CHECK (nbd_get_tls_negotiated (h) == 0);
  nbd_close (h);
  h = create ();
  trust (h, LIBNBD_TLS_REQUIRE, "alice", keys);
  CHECK (nbd_connect_unix (h, without) == -1 && nbd_aio_is_dead (h) == 1);
  nbd_close (h);

#ifdef LIBNBD_HAVE_NBD_OPT_STARTTLS
  /* By hand. What was agreed on in clear is forgotten. */
  h = create ();
  trust (h, LIBNBD_TLS_DISABLE, "alice", keys);
  CHECK (nbd_set_opt_mode (h, true) == 0);
  CHECK (nbd_connect_unix (h, with) == 0);
  CHECK (nbd_aio_is_negotiating (h) == 1 && nbd_get_tls_negotiated (h) == 0);
  CHECK (nbd_opt_info (h) == -1);
  CHECK (nbd_opt_starttls (h) == 1);
  CHECK (nbd_get_tls_negotiated (h) == 1);
  CHECK (nbd_get_structured_replies_negotiated (h) == 0);
  CHECK (nbd_opt_structured_reply (h) == 1);
  CHECK (nbd_get_structured_replies_negotiated (h) == 1);
  CHECK (nbd_opt_go (h) == 0);
  CHECK (nbd_pread (h, buffer, sizeof buffer, 0, 0) == 0);
  nbd_close (h);
#endif
  return 0;
}
