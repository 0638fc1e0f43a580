/* NULL for every pointer. */

#include "check.h"

static char buffer[512];

int
main (int argc UNUSED, char *argv[])
{
  struct nbd_handle *h = create (), *none = NULL;
  nbd_completion_callback no_completion = NBD_NULL_COMPLETION;
  nbd_chunk_callback no_chunk = { 0 };
  nbd_extent_callback no_extent = { 0 };
  nbd_list_callback no_list = { 0 };
  nbd_context_callback no_context = { 0 };
  nbd_debug_callback no_debug = { 0 };

  /* No handle. */
  FAILS (nbd_get_size (none), EFAULT);
  FAILS (nbd_pread (none, buffer, 512, 0, 0), EFAULT);
  FAILS (nbd_aio_is_ready (none), EFAULT);
  FAILS (nbd_aio_in_flight (none), EFAULT);
  CHECK (nbd_get_export_name (none) == NULL && nbd_get_errno () == EFAULT);
  CHECK (nbd_get_protocol (none) == NULL && nbd_get_errno () == EFAULT);
  CHECK (strcmp (nbd_get_package_name (none), "libnbd") == 0);

  FAILS (nbd_set_handle_name (h, NULL), EFAULT);
  FAILS (nbd_set_export_name (h, NULL), EFAULT);
  FAILS (nbd_set_debug_callback (h, no_debug), EFAULT);
  FAILS (nbd_set_tls_certificates (h, NULL), EFAULT);
  FAILS (nbd_set_tls_username (h, NULL), EFAULT);
  FAILS (nbd_set_tls_psk_file (h, NULL), EFAULT);
  FAILS (nbd_add_meta_context (h, NULL), EFAULT);
  FAILS (nbd_connect_uri (h, NULL), EFAULT);
  FAILS (nbd_connect_unix (h, NULL), EFAULT);
  FAILS (nbd_connect_tcp (h, NULL, "1"), EFAULT);
  FAILS (nbd_connect_tcp (h, "localhost", NULL), EFAULT);
  FAILS (nbd_connect_command (h, NULL), EFAULT);
  FAILS (nbd_connect_systemd_socket_activation (h, NULL), EFAULT);
  FAILS (nbd_aio_connect (h, NULL, 16), EFAULT);
  FAILS (nbd_aio_connect_uri (h, NULL), EFAULT);
  FAILS (nbd_aio_connect_command (h, NULL), EFAULT);
  char *empty[] = { NULL };
  FAILS (nbd_connect_command (h, empty), EINVAL);
  CHECK (nbd_aio_is_created (h) == 1);
#ifdef LIBNBD_HAVE_NBD_IS_URI
  FAILS (nbd_is_uri (h, NULL), EFAULT);
  FAILS (nbd_set_tls_hostname (h, NULL), EFAULT);
  FAILS (nbd_set_socket_activation_name (h, NULL), EFAULT);
#endif
  nbd_close (h);

  h = connected (argv[1]);
  FAILS (nbd_can_meta_context (h, NULL), EFAULT);
  FAILS (nbd_pread (h, NULL, 512, 0, 0), EFAULT);
  FAILS (nbd_pwrite (h, NULL, 512, 0, 0), EFAULT);
  FAILS (nbd_pread_structured (h, buffer, 512, 0, no_chunk, 0), EFAULT);
  FAILS (nbd_block_status (h, 512, 0, no_extent, 0), EFAULT);
  FAILS (nbd_aio_pread (h, NULL, 512, 0, no_completion, 0), EFAULT);
  FAILS (nbd_aio_pwrite (h, NULL, 512, 0, no_completion, 0), EFAULT);
  FAILS (nbd_aio_pread_structured (h, buffer, 512, 0, no_chunk, no_completion, 0),
         EFAULT);
  FAILS (nbd_aio_block_status (h, 512, 0, no_extent, no_completion, 0), EFAULT);
  CHECK (nbd_pread (h, buffer, 512, 0, 0) == 0);
  nbd_close (h);

  h = create ();
  CHECK (nbd_set_opt_mode (h, true) == 0 && nbd_connect_uri (h, argv[1]) == 0);
  FAILS (nbd_opt_list (h, no_list), EFAULT);
  FAILS (nbd_opt_list_meta_context (h, no_context), EFAULT);
  FAILS (nbd_aio_opt_list (h, no_list, no_completion), EFAULT);
#ifdef LIBNBD_HAVE_NBD_OPT_STARTTLS
  FAILS (nbd_opt_set_meta_context (h, no_context), EFAULT);
#endif
  CHECK (nbd_aio_is_negotiating (h) == 1 && nbd_opt_go (h) == 0);
  nbd_close (h);
  return 0;
}
