/* Options, one by one. */

#include "check.h"

static unsigned listed, contexts, completed;

static int
on_list (void *data UNUSED, const char *name, const char *description)
{
  CHECK (name != NULL && description != NULL);
  listed++;
  return -1; /* means nothing */
}

static int
on_context (void *data UNUSED, const char *name)
{
  CHECK (strchr (name, ':') != NULL);
  contexts++;
  return -1;
}

static int
on_completion (void *data, int *error)
{
  CHECK (*error == *(int *)data);
  completed++;
  return 0;
}

int
main (int argc UNUSED, char *argv[])
{
  struct nbd_handle *h = create ();
  nbd_list_callback list = { .callback = on_list };
  nbd_context_callback context = { .callback = on_context };
  int none = 0;
  nbd_completion_callback completion = { .callback = on_completion,
                                         .user_data = &none };

  CHECK (nbd_set_opt_mode (h, true) == 0 && nbd_get_opt_mode (h) == 1);
  CHECK (nbd_connect_uri (h, argv[1]) == 0);
  CHECK (nbd_aio_is_negotiating (h) == 1 && nbd_aio_is_ready (h) == 0);
  CHECK (nbd_aio_get_direction (h) == 0);
  FAILS (nbd_poll (h, 0), EINVAL);
  FAILS (nbd_get_size (h), EINVAL);
  FAILS (nbd_can_flush (h), EINVAL);
  CHECK (nbd_opt_list (h, list) == 1 && listed == 1);
  CHECK (nbd_opt_list_meta_context (h, context) == (int)contexts && contexts > 0);

  CHECK (nbd_add_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0);
  CHECK (nbd_opt_info (h) == 0);
  CHECK (nbd_aio_is_negotiating (h) == 1 && nbd_get_size (h) == 1 << 20);
  CHECK (nbd_can_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1);
  /* Another export is another thing. */
  CHECK (nbd_set_export_name (h, "other") == 0);
  FAILS (nbd_get_size (h), EINVAL);
  CHECK (nbd_set_export_name (h, "") == 0);

  unsigned before = contexts;
  CHECK (nbd_aio_opt_list_meta_context (h, context, completion) == 0);
  CHECK (nbd_aio_is_connecting (h) == 1 && nbd_aio_is_negotiating (h) == 0);
  FAILS (nbd_opt_go (h), EINVAL);
  while (nbd_aio_is_connecting (h))
    CHECK (nbd_poll (h, -1) == 1);
  CHECK (completed == 1 && contexts == before + 1);

#ifdef LIBNBD_HAVE_NBD_OPT_STARTTLS
  char *queries[] = { "base:", NULL };
  /* For this export none was selected yet: its name was another one meanwhile. */
  FAILS (nbd_can_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION), EINVAL);
  CHECK (nbd_opt_set_meta_context_queries (h, queries, context) >= 0);
  CHECK (nbd_opt_set_meta_context (h, context) == 1);
  CHECK (nbd_opt_starttls (h) == 0); /* the server has none */
  CHECK (nbd_aio_is_negotiating (h) == 1);
  CHECK (nbd_set_request_meta_context (h, false) == 0);
#endif
  CHECK (nbd_aio_opt_go (h, completion) == 0);
  while (nbd_aio_is_connecting (h))
    CHECK (nbd_poll (h, -1) == 1);
  CHECK (completed == 2 && nbd_aio_is_ready (h) == 1);
  CHECK (nbd_can_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1);
  CHECK (nbd_flush (h, 0) == 0);
  nbd_close (h);

  h = create ();
  CHECK (nbd_set_opt_mode (h, true) == 0 && nbd_connect_uri (h, argv[1]) == 0);
  CHECK (nbd_opt_abort (h) == 0 && nbd_aio_is_closed (h) == 1);
  FAILS (nbd_opt_go (h), EINVAL);
  nbd_close (h);

#ifdef LIBNBD_HAVE_NBD_GET_EXTENDED_HEADERS_NEGOTIATED
  /* From 1.18 on a negotiation can be shut down, too. */
  h = create ();
  CHECK (nbd_set_opt_mode (h, true) == 0 && nbd_connect_uri (h, argv[1]) == 0);
  CHECK (nbd_shutdown (h, 0) == 0 && nbd_aio_is_closed (h) == 1);
  nbd_close (h);
#endif
  return 0;
}
