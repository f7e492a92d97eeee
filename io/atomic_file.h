/**
 * What outputs need from the file system: whole positional reads and writes with complete messages, parents made on
 * the way, small files written in one piece, renames that reach the disk.
 *
 * A full disk, a used-up quota and a file-size limit (ENOSPC, EDQUOT, EFBIG) are INGOT_ERR_NOSPACE; everything else
 * is INGOT_ERR_IO unless a function says otherwise. All functions may be called from any thread.
 */
#ifndef INGOT_IO_ATOMIC_FILE_H
#define INGOT_IO_ATOMIC_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The status that an errno of a failed write stands for. */
ingot_status ingot_file_status(int error);
/** Write all of size bytes at an offset; the path is for the message. */
ingot_status ingot_file_pwrite(int fd, const char *path, uint64_t offset, const void *bytes, size_t size);
/** Read all of size bytes at an offset; a file that ends before is INGOT_ERR_IO. */
ingot_status ingot_file_pread(int fd, const char *path, uint64_t offset, void *bytes, size_t size);
/** A path without the slashes at its end, and with a suffix; on the heap, NULL when memory is out. */
char *ingot_file_sibling(const char *path, const char *suffix);
/**
 * Visit what lies beside a path under its name with a suffix and more: "dir/m.h5" and ".state." lead to
 * "m.h5.state.0-of-2", whose `tail` is "0-of-2". Names are relative to `folder`, an open directory. The first failure
 * of a visit ends it and is returned. A folder that cannot be listed holds nothing.
 */
typedef ingot_status (*ingot_file_visit)(void *context, int folder, const char *name, const char *tail);
ingot_status ingot_file_each_beside(const char *path, const char *suffix, ingot_file_visit visit, void *context);
/** Make the directories above a path, as mkdir -p does. */
ingot_status ingot_file_make_parents(const char *path);
/** Flush the directory that holds a path, so that a rename in it lasts. File systems that cannot are left alone. */
ingot_status ingot_file_sync_parent(const char *path);
/** Flush an open file. */
ingot_status ingot_file_sync(int fd, const char *path);
/**
 * Write a small file under a temporary name next to path ("<path>.new"), then rename it into place: readers see the
 * old file, or none, or the new one whole. Flushed to disk when durable. Nothing is left behind on failure.
 */
ingot_status ingot_file_replace(const char *path, const void *bytes, size_t size, bool durable);
/**
 * Remove a file or a directory of files; nothing there is fine. A directory with subdirectories is INGOT_ERR_EXISTS,
 * with nothing removed: no output of ours has any.
 */
ingot_status ingot_file_remove(const char *path);

#ifdef __cplusplus
}
#endif
#endif
