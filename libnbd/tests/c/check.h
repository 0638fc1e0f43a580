/* What each of the test programs needs. */

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libnbd.h>

#define UNUSED __attribute__ ((unused))

/* Something that must be so. */
#define CHECK(what)                                                            \
  do {                                                                         \
    if (!(what)) {                                                             \
      const char *why_ = nbd_get_error ();                                     \
      fprintf (stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__,       \
               __LINE__, #what, why_ ? why_ : "none");                         \
      exit (EXIT_FAILURE);                                                     \
    }                                                                          \
  } while (0)

/* A call that must fail, with this number and its own name in the text. */
#define FAILS(call, number)                                                    \
  do {                                                                         \
    long long got_ = (long long)(call);                                        \
    if (got_ != -1 || nbd_get_errno () != (number)) {                          \
      const char *why_ = nbd_get_error ();                                     \
      fprintf (stderr, "%s:%d: %s gave %lld, error %d, not %s (%s)\n",         \
               __FILE__, __LINE__, #call, got_, nbd_get_errno (), #number,     \
               why_ ? why_ : "none");                                          \
      exit (EXIT_FAILURE);                                                     \
    }                                                                          \
    size_t length_ = strcspn (#call, " (");                                    \
    if (strncmp (nbd_get_error (), #call, length_) != 0) {                     \
      fprintf (stderr, "%s:%d: the error names another call: %s\n", __FILE__,  \
               __LINE__, nbd_get_error ());                                    \
      exit (EXIT_FAILURE);                                                     \
    }                                                                          \
  } while (0)

static inline struct nbd_handle *
create (void)
{
  struct nbd_handle *h = nbd_create ();
  CHECK (h != NULL);
  return h;
}

static inline struct nbd_handle *
connected (const char *uri)
{
  struct nbd_handle *h = create ();
  CHECK (nbd_add_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0);
  CHECK (nbd_connect_uri (h, uri) == 0);
  return h;
}

/* Waits until a command is finished; 1, or -1 if it failed. */
static inline int
wait_for (struct nbd_handle *h, int64_t cookie)
{
  int r;
  CHECK (cookie > 0);
  while ((r = nbd_aio_command_completed (h, cookie)) == 0)
    if (nbd_poll (h, -1) == -1)
      CHECK (nbd_aio_is_dead (h));
  return r;
}
