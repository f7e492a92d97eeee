/** The insides of a training, for the .c files of workers/distill and their tests. */
#ifndef INGOT_WORKERS_DISTILL_TRAINER_H
#define INGOT_WORKERS_DISTILL_TRAINER_H

#include "workers/distill/distill.h"
#include "workers/distill/optimizer.h"
#include "workers/distill/stream.h"
#include "workers/distill/teacher.h"
#include "workers/statistics/loop.h"

typedef struct ingot_trainer {
  ingot_comm                  *comm;
  const ingot_distill_plan    *plan;
  const ingot_distill_options *options;
  ingot_merge_timing          *timing;
  ingot_gather                 g;      /* the student with its pass, the back end, validation data */
  ingot_tokens               **tokens; /* [n_data] */
  ingot_teachers               teachers;
  ingot_optimizer              optimizer;
  ingot_draw                  *draws;      /* [batch] */
  int64_t                     *drawn;      /* [n_data] before the next step */
  int32_t                     *ids;        /* [5][own windows][length] */
  int64_t                      n_own;      /* windows of a step, at most */
  float                       *host_rows;  /* [max(n_teacher, 1) + 1][micro batch * length] */
  float                       *best;       /* [slice]: master at the best validation, on the host */
  float                        scale;      /* of gradients of the step under way: 1 / its tokens */
  int64_t                      step;       /* steps done */
  int64_t                      validated;  /* step of the last validation; -1: none */
  double                       peak_flops; /* measured, of matrix products */
  double                       start_s, save_s;
  ingot_distill_history       *history;
} ingot_trainer;

/** Collective. Release in any case. */
ingot_status ingot_trainer_init(ingot_trainer *t, ingot_comm *comm, const ingot_distill_plan *plan,
                                const ingot_distill_options *options, ingot_distill_history *history,
                                ingot_merge_timing *timing);
void         ingot_trainer_release(ingot_trainer *t);
/** Loss and gradient (in optimizer.gradient, summed over ranks) of step t->step; record's rate is not filled.
 * Collective. */
ingot_status ingot_trainer_gradient(ingot_trainer *t, ingot_distill_record *record);
/** A whole step; t->step goes up. Collective. */
ingot_status ingot_trainer_step(ingot_trainer *t);
/** Scores on the validation data; a record of them, and the best kept. Collective. */
ingot_status ingot_trainer_validate(ingot_trainer *t);

/* ---- model.c: the student ---- */
/** The student into g->model, with g->source where it comes from a checkpoint. Not collective. */
ingot_status ingot_trainer_load(ingot_trainer *t);

/* ---- save.c ---- */
/** Save everything that the next step depends on, as another generation than the last one. Collective. */
ingot_status ingot_trainer_save(ingot_trainer *t);
/** Take up what was saved by any number of ranks; without anything that fits, nothing changes. Collective. */
ingot_status ingot_trainer_resume(ingot_trainer *t);

/* ---- write.c ---- */
/** Host memory for n_elem parameters on their way from a GPU to the file, at most. */
uint64_t ingot_distill_write_bytes(int64_t n_elem, int n_thread);
/** A checkpoint of the student under its name: the best, where one is kept, or as it is now. Collective. */
ingot_status ingot_trainer_write(ingot_trainer *t, const char *path, bool best, uint64_t *checksums);

#endif
