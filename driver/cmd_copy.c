#define _POSIX_C_SOURCE 200809L
#include "driver/cmd_copy.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "driver/output_check.h"
#include "io/copy.h"

/* What a checkpoint says about its making, in every format that has room for it. */
static const char *const kept[] = {"ingot_job", "ingot_recipe", "ingot_version", "ingot_inputs"};
enum { N_KEPT = sizeof kept / sizeof kept[0] };

static bool stopped(void *stop)
{
  return atomic_load((const atomic_int *)stop) != 0;
}

/* Rank 0: may the output be written? */
static ingot_status check_output(const char *input, const char *output, bool force)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  bool         overlap = false;
  INGOT_TRY(ingot_paths_overlap(input, output, &overlap));
  INGOT_CHECK(!overlap, INGOT_ERR_USAGE, "%s: the output is the input %s, or one is inside the other", output, input);
  INGOT_CHECK(force || lstat(output, &info) != 0, INGOT_ERR_EXISTS, "%s: exists already; --force replaces it", output);
done:
  return st;
}

/* A model card for a directory made from a merged checkpoint, which holds the recipe but no card. */
static ingot_status make_card(const ingot_source *src, ingot_text *card)
{
  const char *recipe = ingot_source_attribute(src, "ingot_recipe");
  if (!recipe || ingot_source_find_side_file(src, "README.md") >= 0) return INGOT_OK;
  return ingot_text_printf(card,
                           "---\nlibrary_name: transformers\ntags:\n- merge\n- ingot\n---\n# Merged model\n\n"
                           "Made with ingot, by this recipe:\n\n```json\n%s\n```\n",
                           recipe);
}

static ingot_status copy(const ingot_command_context *context, const ingot_command_line *line, ingot_source *src,
                         uint64_t shard_bytes, ingot_lock *lock)
{
  ingot_status         st = INGOT_OK;
  ingot_text           card = {0};
  ingot_sink_attribute attributes[N_KEPT + 1];
  ingot_copy_result    result = {0};
  char                 size[32];
  atomic_int          *stop = (atomic_int *)(uintptr_t)context->stop; /* only read */
  ingot_copy_options   options = {.path = line->args[1],
                                  .shard_bytes = shard_bytes,
                                  .durable = true,
                                  .lock = lock,
                                  .attributes = attributes,
                                  .stopped = stop ? stopped : NULL,
                                  .stopped_context = stop};
  for (int i = 0; i < N_KEPT; i++) {
    const char *text = ingot_source_attribute(src, kept[i]);
    if (text) attributes[options.n_attribute++] = (ingot_sink_attribute){kept[i], text};
  }
  if (ingot_sink_format_of(options.path) == INGOT_SINK_HF_DIR) st = make_card(src, &card);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  if (card.size) attributes[options.n_attribute++] = (ingot_sink_attribute){"model_card", card.bytes};
  INGOT_TRY(ingot_copy_checkpoint(context->comm, src, &options, &result));
  if (ingot_comm_rank(context->comm) == 0)
    printf("%s: %d tensors, %s, %d side files\n", options.path, result.n_tensor, ingot_bytes_text(result.bytes, size),
           result.n_side_file);
done:
  ingot_text_release(&card);
  return st;
}

/* Rank 0: the output is this run's, and may be written. */
static ingot_status take_output(const ingot_command_line *line, ingot_lock **lock)
{
  ingot_status st = INGOT_OK;
  const char  *input = line->args[0], *output = line->args[1];
  bool         force = ingot_line_has(line, "--force");
  ingot_text   what = {0};
  INGOT_TRY(check_output(input, output, force));
  INGOT_TRY(ingot_text_printf(&what, "%s of %s", line->command->name, input));
  INGOT_TRY(ingot_lock_take(output, ingot_text_string(&what), lock));
  st = check_output(input, output, force); /* another run may have made it in between */
done:
  ingot_text_release(&what);
  return st;
}

ingot_status ingot_copy_run(const ingot_command_context *context, const ingot_command_line *line, uint64_t shard_bytes)
{
  ingot_source *src = NULL;
  ingot_lock   *lock = NULL;
  ingot_status  st = ingot_source_open(line->args[0], &src);
  if (st == INGOT_OK && ingot_comm_rank(context->comm) == 0) st = take_output(line, &lock);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = copy(context, line, src, shard_bytes, lock);
done:
  ingot_lock_release(&lock);
  ingot_source_close(&src);
  return st;
}
