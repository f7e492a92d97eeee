#define _POSIX_C_SOURCE 200809L
#include "io/stripes.h"

#include <fcntl.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

/*
 * Lustre's lov_user_md, versions 1 and 3, in the byte order of the host:
 *   0 magic (4 bytes)   4 pattern (4)   8 object (16)   24 bytes of a stripe (4)   28 number of stripes (2)   ...
 * Composite layouts have another magic number and several of these.
 */
enum { SIZE_AT = 24, COUNT_AT = 28, LAYOUT_BYTES = 32, LAYOUT_MAX = 65536 };
static const uint32_t plain_layouts[2] = {0x0BD10BD0u, 0x0BD30BD0u};

bool ingot_stripes_parse(const void *layout, size_t size, ingot_stripes *out)
{
  uint32_t magic, bytes;
  uint16_t n;
  if (size < LAYOUT_BYTES) return false;
  memcpy(&magic, layout, sizeof magic);
  memcpy(&bytes, (const char *)layout + SIZE_AT, sizeof bytes);
  memcpy(&n, (const char *)layout + COUNT_AT, sizeof n);
  if ((magic != plain_layouts[0] && magic != plain_layouts[1]) || n == 0 || bytes == 0) return false;
  out->known = true;
  out->n_stripe = n;
  out->stripe_bytes = bytes;
  return true;
}

void ingot_stripes_look(const char *path, ingot_stripes *out)
{
  struct statfs fs;
  char          layout[LAYOUT_MAX];
  *out = (ingot_stripes){0};
  if (statfs(path, &fs) != 0) return;
  out->fs = (uint32_t)fs.f_type;
  if (out->fs != INGOT_FS_LUSTRE) return;
  ssize_t size = getxattr(path, "lustre.lov", layout, sizeof layout);
  if (size > 0) (void)ingot_stripes_parse(layout, (size_t)size, out);
}

static bool has_stripes(uint32_t fs)
{
  return fs == INGOT_FS_LUSTRE || fs == INGOT_FS_ORANGEFS || fs == INGOT_FS_PANFS;
}

bool ingot_file_wants_one_writer(int fd)
{
  static const uint32_t shared[] = {0x6969u, 0x517Bu, 0xFF534D42u, 0xFE534D42u}; /* NFS; SMB, CIFS, SMB 2 */
  struct flock          lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
  struct statfs         fs;
  uint32_t              type = fstatfs(fd, &fs) == 0 ? (uint32_t)fs.f_type : 0;
  for (size_t i = 0; i < sizeof shared / sizeof shared[0]; i++)
    if (type == shared[i]) return true;
  if (has_stripes(type)) return false; /* MPI-IO knows them, and Lustre is often mounted without locks */
  if (fcntl(fd, F_SETLK, &lock) != 0) return true;
  lock.l_type = F_UNLCK;
  (void)fcntl(fd, F_SETLK, &lock);
  return false;
}

static ingot_status append_asked(const ingot_sink_io *asked, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  if (asked->n_stripe > 0) st = ingot_text_printf(text, "striping_factor = %lld", (long long)asked->n_stripe);
  if (st == INGOT_OK && asked->stripe_bytes > 0)
    st = ingot_text_printf(text, "%sstriping_unit = %llu", asked->n_stripe > 0 ? " and " : "",
                           (unsigned long long)asked->stripe_bytes);
  return st;
}

ingot_status ingot_stripes_remark(const char *path, const ingot_sink_io *asked, const ingot_stripes *found,
                                  ingot_text *text)
{
  ingot_status st = INGOT_OK;
  bool         as_asked = (asked->n_stripe == 0 || asked->n_stripe == found->n_stripe) &&
                  (asked->stripe_bytes == 0 || asked->stripe_bytes == found->stripe_bytes);
  if (asked->n_stripe == 0 && asked->stripe_bytes == 0) return INGOT_OK;
  if (found->known ? as_asked : has_stripes(found->fs) || found->fs == 0) return INGOT_OK;
  INGOT_TRY(ingot_text_printf(text, "%s: ", path));
  INGOT_TRY(append_asked(asked, text));
  if (found->known)
    st = ingot_text_printf(text,
                           " did not take effect: it has %lld of %llu bytes. This MPI-IO may not know Lustre: "
                           "set the stripes of its folder (lfs setstripe)",
                           (long long)found->n_stripe, (unsigned long long)found->stripe_bytes);
  else
    st = ingot_text_printf(text, " had no effect: its file system (type 0x%x) has no stripes that MPI-IO sets",
                           found->fs);
done:
  return st;
}
