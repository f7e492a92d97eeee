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
                         uint64_t shard_bytes)
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
                                  .attributes = attributes,
                                  .stopped = stop ? stopped : NULL,
                                  .stopped_context = stop};
  for (int i = 0; i < N_KEPT; i++) {
    const char *text = ingot_source_attribute(src, kept[i]);
    if (text) attributes[options.n_attribute++] = (ingot_sink_attribute){kept[i], text};
  }
  if (ingot_sink_format_of(options.path) == INGOT_SINK_HF_DIR) INGOT_TRY(make_card(src, &card));
  if (card.size) attributes[options.n_attribute++] = (ingot_sink_attribute){"model_card", card.bytes};
  INGOT_TRY(ingot_copy_checkpoint(context->comm, src, &options, &result));
  if (ingot_comm_rank(context->comm) == 0)
    printf("%s: %d tensors, %s, %d side files\n", options.path, result.n_tensor, ingot_bytes_text(result.bytes, size),
           result.n_side_file);
done:
  ingot_text_release(&card);
  return st;
}

ingot_status ingot_copy_run(const ingot_command_context *context, const ingot_command_line *line, uint64_t shard_bytes)
{
  ingot_source *src = NULL;
  ingot_status  st = ingot_source_open(line->args[0], &src);
  if (st == INGOT_OK && ingot_comm_rank(context->comm) == 0)
    st = check_output(line->args[0], line->args[1], ingot_line_has(line, "--force"));
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = copy(context, line, src, shard_bytes);
done:
  ingot_source_close(&src);
  return st;
}
