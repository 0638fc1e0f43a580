/* Data of callbacks is freed once, however the call ends. */

#include "check.h"

/* How often each kind was freed since the last look. */
static unsigned freed[8];
enum { COMPLETION, CHUNK, EXTENT, LIST, CONTEXT, DEBUG };

static void
note (void *data)
{
  freed[(uintptr_t)data]++;
}

static void
expect (unsigned completion, unsigned chunk, unsigned extent, unsigned list,
        unsigned context)
{
  CHECK (freed[COMPLETION] == completion);
  CHECK (freed[CHUNK] == chunk);
  CHECK (freed[EXTENT] == extent);
  CHECK (freed[LIST] == list);
  CHECK (freed[CONTEXT] == context);
  memset (freed, 0, sizeof freed);
}

static int keep (void *data UNUSED, int *error UNUSED) { return 0; }
static int retire (void *data UNUSED, int *error UNUSED) { return 1; }

static int
on_chunk (void *data UNUSED, const void *bytes UNUSED, size_t count UNUSED,
          uint64_t offset UNUSED, unsigned status UNUSED, int *error UNUSED)
{
  return 0;
}

static int
on_extent (void *data UNUSED, const char *context UNUSED, uint64_t offset UNUSED,
           uint32_t *entries UNUSED, size_t count UNUSED, int *error UNUSED)
{
  return 0;
}

static int
on_list (void *data UNUSED, const char *name UNUSED, const char *text UNUSED)
{
  return 0;
}

static int on_context (void *data UNUSED, const char *name UNUSED) { return 0; }

static int
on_debug (void *data UNUSED, const char *call UNUSED, const char *line UNUSED)
{
  return 0;
}

#define WITH(type, function, kind)                                             \
  ((type){ .callback = (function), .user_data = (void *)(uintptr_t)(kind),     \
           .free = note })
#define KEEP WITH (nbd_completion_callback, keep, COMPLETION)
#define RETIRE WITH (nbd_completion_callback, retire, COMPLETION)
#define ONLY_FREE WITH (nbd_completion_callback, NULL, COMPLETION)
#define ON_CHUNK WITH (nbd_chunk_callback, on_chunk, CHUNK)
#define ON_EXTENT WITH (nbd_extent_callback, on_extent, EXTENT)
#define ON_LIST WITH (nbd_list_callback, on_list, LIST)
#define ON_CONTEXT WITH (nbd_context_callback, on_context, CONTEXT)
#define ON_DEBUG WITH (nbd_debug_callback, on_debug, DEBUG)

static char buffer[4096];

/* Every function that takes one, on a handle that refuses it. */
static void
refused (struct nbd_handle *h)
{
  CHECK (nbd_aio_pread (h, buffer, 512, 0, KEEP, 0) == -1);
  CHECK (nbd_aio_pwrite (h, buffer, 512, 0, KEEP, 0) == -1);
  CHECK (nbd_aio_flush (h, KEEP, 0) == -1);
  CHECK (nbd_aio_trim (h, 512, 0, KEEP, 0) == -1);
  CHECK (nbd_aio_cache (h, 512, 0, KEEP, 0) == -1);
  CHECK (nbd_aio_zero (h, 512, 0, KEEP, 0) == -1);
  expect (6, 0, 0, 0, 0);
  CHECK (nbd_pread_structured (h, buffer, 512, 0, ON_CHUNK, 0) == -1);
  CHECK (nbd_aio_pread_structured (h, buffer, 512, 0, ON_CHUNK, KEEP, 0) == -1);
  CHECK (nbd_block_status (h, 512, 0, ON_EXTENT, 0) == -1);
  CHECK (nbd_aio_block_status (h, 512, 0, ON_EXTENT, KEEP, 0) == -1);
  expect (2, 2, 2, 0, 0);
  CHECK (nbd_opt_list (h, ON_LIST) == -1);
  CHECK (nbd_aio_opt_list (h, ON_LIST, KEEP) == -1);
  CHECK (nbd_opt_list_meta_context (h, ON_CONTEXT) == -1);
  CHECK (nbd_aio_opt_list_meta_context (h, ON_CONTEXT, KEEP) == -1);
  CHECK (nbd_aio_opt_go (h, KEEP) == -1);
  CHECK (nbd_aio_opt_info (h, KEEP) == -1);
  expect (4, 0, 0, 2, 2);
#ifdef LIBNBD_HAVE_NBD_OPT_STARTTLS
  char *none[] = { NULL };
  CHECK (nbd_aio_opt_starttls (h, KEEP) == -1);
  CHECK (nbd_aio_opt_structured_reply (h, KEEP) == -1);
  CHECK (nbd_aio_opt_extended_headers (h, KEEP) == -1);
  CHECK (nbd_opt_set_meta_context (h, ON_CONTEXT) == -1);
  CHECK (nbd_aio_opt_set_meta_context (h, ON_CONTEXT, KEEP) == -1);
  CHECK (nbd_opt_set_meta_context_queries (h, none, ON_CONTEXT) == -1);
  CHECK (nbd_aio_opt_set_meta_context_queries (h, none, ON_CONTEXT, KEEP) == -1);
  CHECK (nbd_opt_list_meta_context_queries (h, none, ON_CONTEXT) == -1);
  CHECK (nbd_aio_opt_list_meta_context_queries (h, none, ON_CONTEXT, KEEP) == -1);
  expect (6, 0, 0, 0, 6);
#endif
#ifdef LIBNBD_HAVE_NBD_BLOCK_STATUS_64
#define WIDE WITH (nbd_extent64_callback, NULL, EXTENT)
  CHECK (nbd_block_status_64 (h, 512, 0, WIDE, 0) == -1);
  CHECK (nbd_aio_block_status_64 (h, 512, 0, WIDE, KEEP, 0) == -1);
  CHECK (nbd_block_status_filter (h, 512, 0, none, WIDE, 0) == -1);
  CHECK (nbd_aio_block_status_filter (h, 512, 0, none, WIDE, KEEP, 0) == -1);
  expect (2, 0, 4, 0, 0);
#endif
}

int
main (int argc UNUSED, char *argv[])
{
  /* No handle at all, one that was never connected, one that is over. */
  refused (NULL);
  struct nbd_handle *h = create ();
  refused (h);
  nbd_close (h);
  expect (0, 0, 0, 0, 0);
  h = connected (argv[1]);
  CHECK (nbd_shutdown (h, 0) == 0);
  refused (h);
  nbd_close (h);
  expect (0, 0, 0, 0, 0);

  /* Refused for its arguments. */
  h = connected (argv[1]);
  CHECK (nbd_aio_pread (h, NULL, 512, 0, KEEP, 0) == -1);
  CHECK (nbd_aio_pread (h, buffer, 512, 1, KEEP, 0x8000) == -1);
  CHECK (nbd_aio_pread (h, buffer, 512, -1, ONLY_FREE, 0) == -1);
  CHECK (nbd_aio_pread_structured (h, NULL, 512, 0, ON_CHUNK, KEEP, 0) == -1);
  expect (4, 1, 0, 0, 0);

  /* Waited for. */
  CHECK (nbd_pread_structured (h, buffer, 512, 0, ON_CHUNK, 0) == 0);
  CHECK (nbd_block_status (h, 512, 0, ON_EXTENT, 0) == 0);
  expect (0, 1, 1, 0, 0);

  /* When it is retired, not when it is finished. */
  int64_t cookie = nbd_aio_pread_structured (h, buffer, 512, 0, ON_CHUNK, KEEP, 0);
  CHECK (cookie > 0);
  while (nbd_aio_in_flight (h) > 0)
    CHECK (nbd_poll (h, -1) == 1);
  expect (0, 0, 0, 0, 0);
  CHECK (nbd_aio_command_completed (h, cookie) == 1);
  expect (1, 1, 0, 0, 0);

  /* By the callback. */
  CHECK (nbd_aio_block_status (h, 512, 0, ON_EXTENT, RETIRE, 0) > 0);
  CHECK (nbd_aio_flush (h, ONLY_FREE, 0) > 0);
  while (nbd_aio_in_flight (h) > 0)
    CHECK (nbd_poll (h, -1) == 1);
  expect (1, 0, 1, 0, 0);

  /* Closed with some under way, and some not retired. */
  CHECK (nbd_aio_pread_structured (h, buffer, 512, 0, ON_CHUNK, KEEP, 0) > 0);
  CHECK (nbd_aio_pread (h, buffer, 512, 0, KEEP, 0) > 0);
  CHECK (nbd_set_debug_callback (h, ON_DEBUG) == 0);
  CHECK (nbd_set_debug_callback (h, ON_DEBUG) == 0);
  CHECK (freed[DEBUG] == 1);
  CHECK (nbd_clear_debug_callback (h) == 0);
  CHECK (freed[DEBUG] == 2);
  nbd_close (h);
  expect (3, 1, 0, 0, 0);

  /* Options. */
  h = create ();
  CHECK (nbd_set_opt_mode (h, true) == 0 && nbd_connect_uri (h, argv[1]) == 0);
  CHECK (nbd_opt_list (h, ON_LIST) == 1);
  expect (0, 0, 0, 1, 0);
  CHECK (nbd_aio_opt_list_meta_context (h, ON_CONTEXT, KEEP) == 0);
  while (nbd_aio_is_connecting (h))
    CHECK (nbd_poll (h, -1) == 1);
  expect (1, 0, 0, 0, 1);
  CHECK (nbd_aio_opt_list (h, ON_LIST, KEEP) == 0);
  nbd_close (h);
  expect (1, 0, 0, 1, 0);
  return 0;
}
