#define _POSIX_C_SOURCE 200809L
#include "io/tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/philox.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/hdf5_old.h"
#include "io/hdf5_types.h"

enum { READ_TOKENS = 4096 }; /* ids read and widened at a time */

#define NO_DATA_SET "%s: no data set \"%s\""
#define NOT_TOKEN_IDS "%s: data set \"%s\" is not a one-dimensional array of integers"
#define NOT_THE_ONLY_ONE "%s: %d one-dimensional data sets of integers; name one as \"FILE:/NAME\""

struct ingot_tokens {
  char           *path;  /* as given */
  int             fd;    /* ids that are one byte range of a file; -1: HDF5 */
  int             width; /* there: bytes of an id */
  bool            has_sign;
  uint64_t        offset; /* of the first */
  hid_t           file, dataset;
  pthread_mutex_t lock; /* HDF5 serves one thread at a time */
  bool            locked_once;
  int64_t         count;
  uint64_t        identity;
};

static bool ends_with(const char *s, size_t length, const char *end)
{
  size_t n = strlen(end);
  return length >= n && memcmp(s + length - n, end, n) == 0;
}

/* Length of the file's name in "file.h5:/name", or of the whole path; 0 when this is not an HDF5 file's name. */
static size_t hdf5_length(const char *path)
{
  const char *name = strstr(path, ":/");
  while (name && strstr(name + 1, ":/")) name = strstr(name + 1, ":/");
  size_t length = name ? (size_t)(name - path) : strlen(path);
  return ends_with(path, length, ".h5") || ends_with(path, length, ".hdf5") ? length : 0;
}

static void identify(ingot_tokens *t, const struct stat *info)
{
  int64_t facts[4] = {(int64_t)info->st_size, (int64_t)info->st_mtim.tv_sec, (int64_t)info->st_mtim.tv_nsec, t->width};
  t->identity = ingot_hash_seeded(facts, sizeof facts, (uint64_t)t->count);
}

static ingot_status open_flat(ingot_tokens *t, const char *dtype)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  size_t       length = strlen(t->path);
  if (dtype) t->width = strcmp(dtype, "u16") == 0 ? 2 : strcmp(dtype, "u32") == 0 ? 4 : 0;
  else t->width = ends_with(t->path, length, ".u16") ? 2 : ends_with(t->path, length, ".u32") ? 4 : 0;
  INGOT_CHECK(t->width != 0 || !dtype, INGOT_ERR_FORMAT, "%s: \"%s\" is no type of token ids (u16, u32)", t->path,
              dtype);
  t->fd = open(t->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* or a FIFO would hold us until somebody writes */
  INGOT_CHECK(t->fd >= 0, INGOT_ERR_NOTFOUND, "%s: cannot open the token file: %s", t->path, strerror(errno));
  INGOT_CHECK(fstat(t->fd, &info) == 0 && S_ISREG(info.st_mode), INGOT_ERR_NOTFOUND, "%s: not a file", t->path);
  INGOT_CHECK(t->width != 0, INGOT_ERR_FORMAT,
              "%s: the name does not say the type of its token ids: .u16, .u32, .h5, or dtype = \"u16\" or \"u32\"",
              t->path);
  INGOT_CHECK(info.st_size % t->width == 0, INGOT_ERR_FORMAT, "%s: %lld bytes are no whole number of %d-byte token ids",
              t->path, (long long)info.st_size, t->width);
  t->count = (int64_t)info.st_size / t->width;
  identify(t, &info);
done:
  return st;
}

static bool is_token_data(hid_t dataset)
{
  hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
  bool  good = type >= 0 && space >= 0 && H5Tget_class(type) == H5T_INTEGER && H5Sget_simple_extent_ndims(space) == 1;
  if (type >= 0) H5Tclose(type);
  if (space >= 0) H5Sclose(space);
  return good;
}

/* Data sets that may be token ids, counted; the first one's name. */
typedef struct hdf5_search {
  int  count;
  char name[1024];
} hdf5_search;

static herr_t look_at_link(hid_t group, const char *name, const H5L_info_t *info, void *context)
{
  hdf5_search *search = context;
  if (info->type != H5L_TYPE_HARD) return 0;
  hid_t object = H5Oopen(group, name, H5P_DEFAULT);
  if (object < 0) return 0;
  if (H5Iget_type(object) == H5I_DATASET && is_token_data(object) && search->count++ == 0) {
    size_t n = strlen(name) < sizeof search->name - 1 ? strlen(name) : sizeof search->name - 1;
    memcpy(search->name, name, n);
    search->name[n] = '\0';
  }
  H5Oclose(object);
  return 0;
}

static ingot_status find_dataset(ingot_tokens *t, const char *name)
{
  ingot_status st = INGOT_OK;
  hdf5_search  search = {0};
  char         why[256];
  if (!name) {
    INGOT_CHECK(H5Lvisit(t->file, H5_INDEX_NAME, H5_ITER_NATIVE, look_at_link, &search) >= 0, INGOT_ERR_FORMAT,
                "%s: cannot list the data sets: %s", t->path, ingot_hdf5_error_text(why));
    INGOT_CHECK(search.count == 1, INGOT_ERR_FORMAT, NOT_THE_ONLY_ONE, t->path, search.count);
    name = search.name;
  }
  t->dataset = H5Dopen(t->file, name, H5P_DEFAULT);
  INGOT_CHECK(t->dataset >= 0, INGOT_ERR_FORMAT, NO_DATA_SET, t->path, name);
  INGOT_CHECK(is_token_data(t->dataset), INGOT_ERR_FORMAT, NOT_TOKEN_IDS, t->path, name);
done:
  return st;
}

/* A search through a file of HDF5's older format. */
typedef struct old_search {
  const char        *wanted; /* without the slash at its start; NULL: the only one */
  int                count;  /* of one-dimensional data sets of integers with that name, or any */
  bool               is_there;
  ingot_hdf5_dataset dataset; /* the last of them */
} old_search;

static ingot_status look_at_old(void *context, const char *name, ingot_hdf5_kind kind,
                                const ingot_hdf5_dataset *dataset)
{
  old_search *search = context;
  if (kind != INGOT_HDF5_DATASET || (search->wanted && strcmp(name, search->wanted) != 0)) return INGOT_OK;
  search->is_there = true;
  if (dataset->type.kind != H5T_INTEGER || dataset->n_dim != 1) return INGOT_OK;
  search->count++;
  search->dataset = *dataset;
  return INGOT_OK;
}

/*
 * HDF5 can crash on damage to its older format, so its structure is looked through first; and a data set that is one
 * range of little-endian integers is read without HDF5. Leaves t->fd at -1 where HDF5 is needed: chunks, filters, ...
 */
static ingot_status open_old(ingot_tokens *t, const char *file, uint64_t file_bytes, const char *name)
{
  ingot_status st = INGOT_OK;
  old_search   search = {.wanted = name ? name + 1 : NULL};
  ingot_dtype  dtype = INGOT_DTYPE_U8;
  int          fd = open(file, O_RDONLY | O_CLOEXEC);
  INGOT_CHECK(fd >= 0, INGOT_ERR_NOTFOUND, "%s: cannot open the token file: %s", file, strerror(errno));
  INGOT_TRY(ingot_hdf5_old_walk(fd, file, file_bytes, look_at_old, &search));
  INGOT_CHECK(!name || search.is_there, INGOT_ERR_FORMAT, NO_DATA_SET, t->path, name);
  INGOT_CHECK(!name || search.count > 0, INGOT_ERR_FORMAT, NOT_TOKEN_IDS, t->path, name);
  INGOT_CHECK(search.count == 1, INGOT_ERR_FORMAT, NOT_THE_ONLY_ONE, t->path, search.count);
  const ingot_hdf5_dataset *d = &search.dataset;
  if (d->layout != H5D_CONTIGUOUS || d->external || !ingot_hdf5_type_dtype(&d->type, &dtype) ||
      d->offset == INGOT_HDF5_NOWHERE || d->dim[0] > d->stored_bytes / d->type.bytes)
    goto done;
  t->count = (int64_t)d->dim[0];
  t->width = (int)d->type.bytes;
  t->has_sign = d->type.has_sign;
  t->offset = d->offset;
  t->fd = fd;
done:
  if (fd >= 0 && t->fd < 0) close(fd);
  return st;
}

static ingot_status open_by_hdf5(ingot_tokens *t, const char *file, const char *name)
{
  ingot_status     st = INGOT_OK;
  ingot_hdf5_quiet quiet;
  char             why[256];
  hid_t            space = -1, access = H5Pcreate(H5P_FILE_ACCESS);
  hsize_t          extent = 0;
  ingot_hdf5_quiet_begin(&quiet);
  /* Many ranks read the same file, some from file systems that have no locks. */
  if (access >= 0 && H5Pset_fapl_sec2(access) >= 0 && H5Pset_file_locking(access, false, true) >= 0)
    t->file = H5Fopen(file, H5F_ACC_RDONLY, access);
  INGOT_CHECK(t->file >= 0, INGOT_ERR_FORMAT, "%s: not a readable HDF5 file: %s", file, ingot_hdf5_error_text(why));
  INGOT_TRY(find_dataset(t, name));
  space = H5Dget_space(t->dataset);
  INGOT_CHECK(space >= 0 && H5Sget_simple_extent_dims(space, &extent, NULL) == 1 && extent <= INT64_MAX / 8,
              INGOT_ERR_FORMAT, "%s: the data set's extent cannot be read", t->path);
  t->count = (int64_t)extent;
done:
  if (space >= 0) H5Sclose(space);
  if (access >= 0) H5Pclose(access);
  ingot_hdf5_quiet_end(&quiet);
  return st;
}

static ingot_status open_hdf5(ingot_tokens *t, size_t length)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  int          superblock = 0;
  const char  *name = t->path[length] ? t->path + length + 1 : NULL;
  char        *file = ingot_strndup(t->path, length);
  INGOT_CHECK(file, INGOT_ERR_NOMEM, "no memory for a path");
  INGOT_CHECK(stat(file, &info) == 0, INGOT_ERR_NOTFOUND, "%s: cannot open the token file: %s", file, strerror(errno));
  INGOT_CHECK(S_ISREG(info.st_mode), INGOT_ERR_NOTFOUND, "%s: not a file", file);
  INGOT_TRY(ingot_hdf5_superblock(file, &superblock));
  if (superblock < 2) INGOT_TRY(open_old(t, file, (uint64_t)info.st_size, name));
  if (t->fd < 0) INGOT_TRY(open_by_hdf5(t, file, name));
  identify(t, &info);
  t->identity = ingot_hash_seeded(t->path + length, strlen(t->path + length), t->identity);
done:
  free(file);
  return st;
}

ingot_status ingot_tokens_open(const char *path, const char *dtype, ingot_tokens **out)
{
  ingot_status  st = INGOT_OK;
  size_t        hdf5 = hdf5_length(path);
  ingot_tokens *t = calloc(1, sizeof *t);
  INGOT_CHECK(t, INGOT_ERR_NOMEM, "no memory for a token file");
  t->fd = -1;
  t->file = t->dataset = -1;
  t->locked_once = pthread_mutex_init(&t->lock, NULL) == 0;
  t->path = ingot_strdup(path);
  INGOT_CHECK(t->path && t->locked_once, INGOT_ERR_NOMEM, "no memory for a token file");
  INGOT_TRY(hdf5 ? open_hdf5(t, hdf5) : open_flat(t, dtype));
done:
  if (st != INGOT_OK) ingot_tokens_close(&t);
  *out = t;
  return st;
}

void ingot_tokens_close(ingot_tokens **tokens)
{
  if (!tokens || !*tokens) return;
  ingot_tokens *t = *tokens;
  if (t->fd >= 0) close(t->fd);
  if (t->dataset >= 0) H5Dclose(t->dataset);
  if (t->file >= 0) H5Fclose(t->file);
  if (t->locked_once) pthread_mutex_destroy(&t->lock);
  free(t->path);
  free(t);
  *tokens = NULL;
}

const char *ingot_tokens_path(const ingot_tokens *tokens)
{
  return tokens->path;
}

int64_t ingot_tokens_count(const ingot_tokens *tokens)
{
  return tokens->count;
}

uint64_t ingot_tokens_identity(const ingot_tokens *tokens)
{
  return tokens->identity;
}

static ingot_status read_flat(const ingot_tokens *t, int64_t first, int64_t n, int64_t *wide)
{
  unsigned char bytes[READ_TOKENS * 8];
  int           rest = 64 - 8 * t->width; /* bits above an id */
  ingot_status  st = ingot_file_pread(t->fd, t->path, t->offset + (uint64_t)first * (uint64_t)t->width, bytes,
                                      (size_t)n * (size_t)t->width);
  for (int64_t i = 0; st == INGOT_OK && i < n; i++) {
    uint64_t id = 0;
    for (int b = t->width - 1; b >= 0; b--) id = id << 8 | bytes[i * t->width + b];
    wide[i] = t->has_sign ? (int64_t)(id << rest) >> rest : (int64_t)id;
  }
  return st;
}

static ingot_status read_hdf5(ingot_tokens *t, int64_t first, int64_t n, int64_t *wide)
{
  ingot_status     st = INGOT_OK;
  ingot_hdf5_quiet quiet;
  hsize_t          at = (hsize_t)first, count = (hsize_t)n;
  char             why[256];
  pthread_mutex_lock(&t->lock);
  ingot_hdf5_quiet_begin(&quiet);
  hid_t space = H5Dget_space(t->dataset), memory = H5Screate_simple(1, &count, NULL);
  INGOT_CHECK(space >= 0 && memory >= 0 && H5Sselect_hyperslab(space, H5S_SELECT_SET, &at, NULL, &count, NULL) >= 0 &&
                  H5Dread(t->dataset, H5T_NATIVE_INT64, memory, space, H5P_DEFAULT, wide) >= 0,
              INGOT_ERR_IO, "%s: cannot read token ids %lld to %lld: %s", t->path, (long long)first,
              (long long)(first + n), ingot_hdf5_error_text(why));
done:
  if (space >= 0) H5Sclose(space);
  if (memory >= 0) H5Sclose(memory);
  ingot_hdf5_quiet_end(&quiet);
  pthread_mutex_unlock(&t->lock);
  return st;
}

ingot_status ingot_tokens_read(const ingot_tokens *tokens, int64_t first, int64_t n, int64_t n_vocab, int32_t *ids)
{
  ingot_status st = INGOT_OK;
  int64_t      wide[READ_TOKENS], limit = n_vocab > 0 ? n_vocab : (int64_t)INT32_MAX + 1;
  INGOT_ASSERT(first >= 0 && n >= 0 && first + n <= tokens->count);
  for (int64_t done_ids = 0; done_ids < n;) {
    int64_t part = n - done_ids < READ_TOKENS ? n - done_ids : READ_TOKENS, at = first + done_ids;
    /* The lock is the only thing that reading changes. */
    INGOT_TRY(tokens->fd >= 0 ? read_flat(tokens, at, part, wide)
                              : read_hdf5((ingot_tokens *)(uintptr_t)tokens, at, part, wide));
    for (int64_t i = 0; i < part; i++) {
      INGOT_CHECK(
          wide[i] >= 0 &&
                  wide[i]<limit, INGOT_ERR_FORMAT, "%s: token %lld is %lld, and ids go from 0 to %lld%s", tokens->path,
                          (long long)(at + i), (long long)wide[i], (long long)(limit - 1), n_vocab> 0
              ? " (the model's vocabulary)"
              : "");
      ids[done_ids + i] = (int32_t)wide[i];
    }
    done_ids += part;
  }
done:
  return st;
}

static int64_t stride_of(const ingot_window_spec *spec)
{
  return spec->stride > 0 ? spec->stride : spec->length;
}

/* Windows before `limit`. */
static int64_t count_all(int64_t n_token, const ingot_window_spec *spec)
{
  int64_t stride = stride_of(spec);
  int64_t n = n_token >= spec->length ? (n_token - spec->length) / stride + 1 : 0;
  if (!spec->partial) return n;
  /* A short one at the end, when it predicts a token that the one before has not. */
  int64_t rest = n_token - n * stride, known = n > 0 && stride < spec->length ? spec->length - stride : 1;
  return rest > known ? n + 1 : n;
}

int64_t ingot_window_count_of(int64_t n_token, const ingot_window_spec *spec)
{
  int64_t n = count_all(n_token, spec);
  return spec->limit > 0 && spec->limit < n ? spec->limit : n;
}

int64_t ingot_window_count(const ingot_tokens *tokens, const ingot_window_spec *spec)
{
  return ingot_window_count_of(tokens->count, spec);
}

/* A permutation of 0 .. n - 1 without a table: a Feistel network over the next even number of bits, walked until the
 * value is in range. */
int64_t ingot_permuted(int64_t n, uint64_t seed, int64_t index)
{
  enum { ROUNDS = 6 };
  int half = 1;
  while (half < 31 && (int64_t)1 << (2 * half) < n) half++;
  uint64_t mask = ((uint64_t)1 << half) - 1, value = (uint64_t)index;
  do {
    uint64_t left = value >> half, right = value & mask;
    for (uint32_t round = 0; round < ROUNDS; round++) {
      uint32_t word[4];
      ingot_philox4x32_of(seed, right, round, word);
      uint64_t next = left ^ (word[0] & mask);
      left = right;
      right = next;
    }
    value = left << half | right;
  } while (value >= (uint64_t)n);
  return (int64_t)value;
}

ingot_status ingot_window_read(const ingot_tokens *tokens, const ingot_window_spec *spec, int64_t index,
                               int64_t n_vocab, int32_t *ids, int32_t *labels, int32_t *positions, int32_t *first_key,
                               int32_t *valid)
{
  ingot_status st = INGOT_OK;
  int64_t      length = spec->length, stride = stride_of(spec), n_all = count_all(tokens->count, spec);
  INGOT_ASSERT(index >= 0 && index < n_all && length >= 2);
  int64_t window = spec->shuffle ? ingot_permuted(n_all, spec->seed, index) : index;
  int64_t first = window * stride + spec->shift;
  if (spec->shift > 0 && first > tokens->count - length) first = tokens->count - length;
  int64_t n = tokens->count - first < length ? tokens->count - first : length;
  int64_t known = window > 0 && stride < length ? length - stride : 0; /* tokens that the window before has predicted */
  int32_t start = 0;
  INGOT_TRY(ingot_tokens_read(tokens, first, n, n_vocab, ids));
  for (int64_t t = 0; t < length; t++) {
    if (t >= n) ids[t] = 0;
    bool begins = t < n && spec->separate && ids[t] == spec->document;
    bool next_begins = t + 1 < n && spec->separate && ids[t + 1] == spec->document;
    if (begins) start = (int32_t)t;
    valid[t] = t < n;
    labels[t] = t + 1 < n && t + 1 >= known && !next_begins ? ids[t + 1] : -1;
    positions[t] = (int32_t)t - start;
    first_key[t] = start;
  }
done:
  return st;
}
