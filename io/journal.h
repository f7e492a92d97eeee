/**
 * The journal of a partial output ("<path>.journal"): which tiles are done, with their checksums.
 *
 * File, little-endian: header of 64 bytes: "INGOTJNL", version u32 = 1, zero u32, fingerprint u64 (of job settings,
 * inputs and layout), n_tile i64, zeros; then one record of 16 bytes a tile: checksum u64, seal u64. The seal is a hash
 * of (fingerprint, tile, checksum): a record that was never or half written does not match. Records are written in
 * place by any rank, so a restart may use another number of ranks.
 *
 * A record says that the tile's bytes were handed to the operating system, not that they reached the disk: whoever
 * resumes reads the tile back and compares its checksum (a node may have died in between).
 */
#ifndef INGOT_IO_JOURNAL_H
#define INGOT_IO_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ingot_journal ingot_journal;

/** Start a new, empty journal file; replaces an old one. One rank does this; the others then open it. */
ingot_status ingot_journal_create(const char *output_path, uint64_t fingerprint, int64_t n_tile);
/**
 * Open for recording. INGOT_ERR_NOTFOUND when there is none; INGOT_ERR_EXISTS when it belongs to another job
 * (fingerprint, tile count or version differ; the message says what).
 */
ingot_status ingot_journal_open(const char *output_path, uint64_t fingerprint, int64_t n_tile, ingot_journal **out);
void         ingot_journal_close(ingot_journal **journal);
/** Read all records: done[tile] and checksum[tile] for n_tile tiles. */
ingot_status ingot_journal_load(ingot_journal *journal, bool *done, uint64_t *checksum);
/** Record a finished tile. Any thread, any rank. */
ingot_status ingot_journal_record(ingot_journal *journal, int64_t tile, uint64_t checksum);

#ifdef __cplusplus
}
#endif
#endif
