/**
 * The common loop: a rank's model and data, its windows in batches, notices between ranks, stops, saved states.
 * For the .c files of workers/statistics.
 */
#ifndef INGOT_WORKERS_STATISTICS_LOOP_H
#define INGOT_WORKERS_STATISTICS_LOOP_H

#include "workers/model/model.h"
#include "workers/statistics/gather.h"

typedef struct ingot_gather {
  ingot_comm                 *comm;
  const ingot_gather_plan    *plan;
  const ingot_gather_options *options;
  ingot_merge_timing         *timing;
  ingot_nn                   *nn;
  ingot_source               *source;
  ingot_model                *model;
  ingot_pass                 *pass;
  int64_t                     n_vocab; /* of the model: ids must be below */
  ingot_tokens              **tokens;  /* [n_data] */
  int32_t                    *ids;     /* [5][batch * length]: ids, labels, positions, first keys, valid */
  double                      start_s;
  int64_t                     windows_before; /* for progress: of earlier runs of the loop */
  int64_t                     n_window;       /* for progress: all */
  int64_t                    *rank_windows;   /* rank 0: [size], of this run of the loop */
  bool                        headless;       /* passes have no use for logits: set before a model is loaded */
  size_t                      free_before;    /* of the GPU, before anything of the step's */
  int                         n_look;         /* times that the GPU was asked since a model was loaded */
} ingot_gather;

struct ingot_state_part;

/** What is done with the windows. Everything else of a rank is in context. */
typedef struct ingot_gather_work {
  void *context;
  /** A batch of windows first .. first + n_batch - 1, counted through the data sets. */
  ingot_status (*batch)(void *context, ingot_batch *batch, int64_t first);
  /** Save the sums with the number of windows done of this rank's; NULL: never. */
  ingot_status (*save)(void *context, int64_t n_done);
  /** `batch` is collective, one batch of every rank at a time: a rank without windows left is given one with n_batch 0.
   * For work that is not saved. */
  bool in_rounds;
} ingot_gather_work;

/** How passes are opened. */
ingot_pass_options ingot_gather_pass_options(const ingot_gather_plan *plan, bool backward, bool headless);
/** Bytes of a batch's windows, as ingot_gather_init takes them. */
uint64_t ingot_gather_batch_bytes(const ingot_gather_plan *plan);
/** Not collective. Release in any case. */
ingot_status ingot_gather_init(ingot_gather *g, ingot_comm *comm, const ingot_gather_plan *plan,
                               const ingot_gather_options *options, ingot_merge_timing *timing);
void         ingot_gather_release(ingot_gather *g);
/** The end of a step's time, begun at these clocks. Its phases were measured once for all threads. */
void ingot_gather_stop_clock(ingot_merge_timing *timing, double start_s, double start_cpu_s);
/** What was taken of the GPU's memory by now, for the high-water mark; of a CPU nothing. */
void ingot_gather_look_at_device(ingot_gather *g);
/** Load a model, and open a pass for it; the model before goes. Not collective. */
ingot_status ingot_gather_load(ingot_gather *g, int model, bool backward);
/** This rank's part [*begin, *end) of windows first .. end - 1. */
void ingot_gather_part(const ingot_comm *comm, int64_t first, int64_t end, int64_t *part_begin, int64_t *part_end);
/**
 * Collective: all ranks through windows first .. end - 1, each through its part, from its n_done'th on. INGOT_STOPPED
 * with all ranks' sums saved.
 */
ingot_status ingot_gather_windows(ingot_gather *g, int64_t first, int64_t end, int64_t n_done,
                                  const ingot_gather_work *work);
/**
 * Take up this rank's saved state, if there is one that fits; *path gets its name, *n_done the windows in it. Not
 * collective.
 */
ingot_status ingot_gather_resume(ingot_gather *g, ingot_text *path, const struct ingot_state_part *parts, int n_part,
                                 int64_t *n_done);
/** "window 7 of de.u16 (tokens 3584 to 4095)", for messages. */
ingot_status ingot_gather_place(const ingot_gather *g, int64_t window, ingot_text *text);
/** Sum of negative log-likelihoods of the rows whose label counts; INGOT_ERR_NUMERIC names the window. */
ingot_status ingot_gather_loss(const ingot_gather *g, const ingot_batch *batch, int64_t first, const float *nll,
                               double *sum, int64_t *n_token);

/* ---- saved states (state.c) ---- */
typedef struct ingot_state_part {
  void  *memory; /* of the back end; host memory with nn NULL. Loading: NULL leaves these bytes out */
  size_t bytes;
} ingot_state_part;

ingot_status ingot_state_path(const char *output, int rank, int size, ingot_text *text);
/** Whether a state of another number of ranks lies beside the output. */
bool ingot_state_other_ranks(const char *output, int size);
/** Host memory for a state of so many bytes on its way from a GPU to the file, at most. */
uint64_t ingot_state_buffer_bytes(uint64_t bytes, int n_thread);
/** Write "path" in one piece, under a checksum; by nn->n_thread threads, from where the parts lie (a GPU's by way of
 * buffers). */
ingot_status ingot_state_save(const char *path, uint64_t fingerprint, int64_t n_done, ingot_nn *nn,
                              const ingot_state_part *parts, int n_part);
/** *n_done 0 when there is none; when it belongs to something else or is broken, *why says so (untouched otherwise). */
ingot_status ingot_state_load(const char *path, uint64_t fingerprint, int64_t *n_done, ingot_nn *nn,
                              const ingot_state_part *parts, int n_part, const char **why);
/** The same where the first n_host parts are host memory in any case. */
ingot_status ingot_state_save_mixed(const char *path, uint64_t fingerprint, int64_t n_done, ingot_nn *nn,
                                    const ingot_state_part *parts, int n_part, int n_host);
ingot_status ingot_state_load_mixed(const char *path, uint64_t fingerprint, int64_t *n_done, ingot_nn *nn,
                                    const ingot_state_part *parts, int n_part, int n_host, const char **why);
/** Read parts of a state that was loaded and found good; they may be cut otherwise. */
ingot_status ingot_state_take(const char *path, ingot_nn *nn, const ingot_state_part *parts, int n_part, int n_host);

/* ---- sums over GPUs (device_sum.c) ---- */
typedef struct ingot_device_sum ingot_device_sum;

/**
 * Collective: NCCL, when the program has it and every rank works on a GPU of its own; otherwise *out is NULL on all
 * ranks, and sums go through the host. That NCCL is there and cannot be opened is told, and no failure.
 */
ingot_status ingot_device_sum_open(ingot_gather *g, ingot_device_sum **out);
/**
 * Collective: the same, opened by a thread of its own, beside what the rank does until it asks for it by
 * ingot_device_sum_ready. Close in any case, on all ranks: that waits for the thread.
 */
ingot_status ingot_device_sum_begin(ingot_gather *g, ingot_device_sum **out);
/** Collective: wait until it is open; *sum NULL if it cannot be. Fine more than once, and with *sum NULL. */
ingot_status ingot_device_sum_ready(ingot_gather *g, ingot_device_sum **sum);
/** No more sums: NCCL is closed beside what comes next. NULL is fine. */
void ingot_device_sum_end(ingot_device_sum *sum);
void ingot_device_sum_close(ingot_device_sum **sum); /* NULL is fine */
/** Its ranks' way to each other; lent. */
struct ingot_nccl *ingot_device_sum_nccl(const ingot_device_sum *sum);
/** Memory of the back end, n values F32 or F64, becomes the sum over ranks. Collective; waits. */
ingot_status ingot_device_sum_add(ingot_device_sum *sum, ingot_dtype dtype, int64_t n, void *data);

/* ---- sums of Gram matrices in back-end memory, [width][width] (gram.c) ---- */
/** Elements first .. first + n - 1 of the upper triangle by rows, as they are. */
ingot_status ingot_gram_rows(ingot_nn *nn, int64_t width, const double *sums, int64_t first, int64_t n, double *values);
/** The same times scale, from a GPU, by way of its memory `packed` [n]. */
ingot_status ingot_gram_means(ingot_nn *nn, int64_t width, const double *sums, double scale, int64_t first, int64_t n,
                              float *packed, float *values);

/* ---- output tensors (output.c) ---- */
typedef struct ingot_stat_writer ingot_stat_writer;

/** The values of a tensor, as this rank has them. */
typedef struct ingot_stat_values {
  void       *context;
  ingot_dtype dtype;  /* F32 or F64 */
  bool        summed; /* over the ranks already: then each rank is asked for its own tiles alone */
  double      scale;  /* of the sums */
  /** Elements first .. first + n - 1 of the tensor, in ascending order of tiles. By the calling thread. */
  ingot_status (*read)(void *context, int tensor, int64_t first, int64_t n, void *values);
} ingot_stat_values;

/** Collective. `reopen`: go on with what an earlier run has written, if it is there (INGOT_ERR_NOTFOUND otherwise); its
 *  hashes are the caller's to bring back. */
ingot_status ingot_stat_writer_open(ingot_comm *comm, const ingot_gather_plan *plan, int n_thread, bool reopen,
                                    ingot_stat_writer **out);
/** Host memory that a writer takes for tensors of n_elem values (the largest) that come as dtype. */
uint64_t ingot_stat_writer_bytes(int64_t n_elem, ingot_dtype dtype, int n_thread);
/** Tiles of all tensors, and the hashes of those that this rank has written (others 0): lent. */
int64_t   ingot_stat_writer_tiles(const ingot_gather_plan *plan);
uint64_t *ingot_stat_writer_hashes(ingot_stat_writer *w);
/** Whether this rank's tiles of tensors 0 .. n_tensor - 1 are in the file as their hashes say. Not collective. */
ingot_status ingot_stat_writer_verify(ingot_stat_writer *w, int n_tensor, bool *good);
/** A whole tensor: sums over ranks times scale, as float32; each rank writes its share of the tiles. Values are taken
 * now and may be written later, beside those of tensors to come, so failures may be told later. Collective. */
ingot_status ingot_stat_writer_put(ingot_stat_writer *w, int tensor, const ingot_stat_values *values);
/** All that was put is written, and hashed; the failure of any tile on any rank. Collective. */
ingot_status ingot_stat_writer_flush(ingot_stat_writer *w);
/** Collective, after a flush: commit, checksums [n_tensor]. *w becomes NULL in any case. */
ingot_status ingot_stat_writer_commit(ingot_stat_writer **w, uint64_t *checksums);
/** Close, and leave what is written for a later run. NULL is fine. Not collective. */
void ingot_stat_writer_close(ingot_stat_writer **w);
/** After a failure that another run would meet again: nothing is kept. NULL is fine. Collective. */
void ingot_stat_writer_discard(ingot_stat_writer **w);

#endif
