#include "driver/generate_settings.h"

#include <string.h>

#include "driver/step.h"
#include "io/sink.h"
#include "workers/generate/generate.h"

#define FIELD(name) offsetof(ingot_generate_settings, name)
#define GATHER_FIELD(name) FIELD(ensemble.gather.name)
#include "driver/gather_rows.h"

static const char *const kind_names[] = {"linear", "log_linear", "max", NULL};
static const char *const prompts_names[] = {"windows", "documents", NULL};
static const char *const search_names[] = {"sample", "greedy", "beam", NULL};
static const char *const select_names[] = {"best", "bleu", "f1", NULL};
static const char *const truncated_names[] = {"keep", "drop", NULL};

const ingot_key ingot_generate_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, GATHER_FIELD(type), "\"generate\""},
    {"name", INGOT_KEY_STRING, false, NULL, NULL, GATHER_FIELD(name), "name of the step"},
    {"models", INGOT_KEY_LIST, true, NULL, NULL, GATHER_FIELD(models_value),
     "one model, or the members of an ensemble that scores as one"},
    {"kind", INGOT_KEY_CHOICE, false, "linear", kind_names, FIELD(ensemble.kind),
     "how distributions become one (docs/methods.md)"},
    {"weights", INGOT_KEY_ANY, false, "\"uniform\"", NULL, FIELD(ensemble.weights_value),
     "\"uniform\", a list with one number a model, a group { data set = list; ... }, or the output of an ensemble "
     "step"},
    {"floor", INGOT_KEY_REAL, false, "1e-8", INGOT_ENSEMBLE_FLOOR, FIELD(ensemble.floor),
     "log_linear: probabilities below count as this where the weight is negative"},
    INGOT_PLAUSIBILITY_ROWS(FIELD(ensemble.plausibility), "models"),
    {"data", INGOT_KEY_ANY, false, NULL, NULL, GATHER_FIELD(data_value),
     "token files that prompts are taken from, as for other steps; without it every sequence starts with `begin`"},
    {"prompts", INGOT_KEY_CHOICE, false, "windows", prompts_names, FIELD(prompts),
     "a prompt from every window of prompt + length tokens, or from every document"},
    {"prompt", INGOT_KEY_INT, false, "1", INGOT_FROM_TO(1, INGOT_WINDOW_MAX), FIELD(prompt),
     "tokens of a prompt, `begin` included; with prompt_end at most"},
    {"prompt_end", INGOT_KEY_INT, false, NULL, INGOT_TOKEN_ID, FIELD(prompt_end),
     "id behind which a prompt ends; windows or documents without it give no prompt"},
    ROW_DOCUMENT,
    ROW_STRIDE,
    {"limit", INGOT_KEY_INT, false, "0", NULL, GATHER_FIELD(limit), "prompts of a data set at most; 0: all"},
    ROW_SHUFFLE,
    {"begin", INGOT_KEY_INT, false, NULL, INGOT_TOKEN_ID, FIELD(begin),
     "id put before every prompt that does not begin with it"},
    {"end", INGOT_KEY_INT, false, NULL, INGOT_TOKEN_ID, FIELD(end), "id that ends a sequence"},
    {"length", INGOT_KEY_INT, true, NULL, INGOT_FROM_TO(1, INGOT_WINDOW_MAX), FIELD(length),
     "tokens behind a prompt at most"},
    {"samples", INGOT_KEY_INT, false, "1", INGOT_FROM_TO(1, 1 << 30), FIELD(samples), "sequences of each prompt"},
    {"search", INGOT_KEY_CHOICE, false, "sample", search_names, FIELD(search),
     "draw tokens, take the likeliest, or beam search"},
    {"temperature", INGOT_KEY_REAL, false, "1", INGOT_ABOVE(0.0), FIELD(temperature),
     "sample: the mixture's logits are divided by it"},
    {"top_k", INGOT_KEY_INT, false, "0", INGOT_FROM_TO(0, 1024), FIELD(top_k),
     "sample: from so many of the likeliest tokens; 0: all"},
    {"top_p", INGOT_KEY_REAL, false, "1", INGOT_ABOVE_TO(0.0, 1.0), FIELD(top_p),
     "sample: from the likeliest tokens that have this probability together"},
    {"beams", INGOT_KEY_INT, false, "5", INGOT_FROM_TO(1, 256), FIELD(beams), "beam: hypotheses that run on"},
    {"length_penalty", INGOT_KEY_REAL, false, "0", INGOT_FROM_TO(-100.0, 100.0), FIELD(penalty),
     "beam: the score is the log-probability / length ^ this"},
    {"select", INGOT_KEY_CHOICE, false, "best", select_names, FIELD(select),
     "beam: the hypothesis with the best score, or the one most like the data behind the prompt (sentence BLEU, F1 of "
     "tokens)"},
    {"truncated", INGOT_KEY_CHOICE, false, "keep", truncated_names, FIELD(truncated),
     "sequences that reach length without `end`"},
    {"unique", INGOT_KEY_BOOL, false, "false", NULL, FIELD(unique), "of equal sequences write the first alone"},
    {"row", INGOT_KEY_INT, false, "0", NULL, FIELD(row),
     "pack whole sequences into rows of so many tokens; 0: one behind the other"},
    {"fill", INGOT_KEY_INT, false, "end", INGOT_TOKEN_ID, FIELD(fill), "id that fills the end of a row"},
    {"batch", INGOT_KEY_INT, false, "0", INGOT_FROM_TO(0, 4096), GATHER_FIELD(batch),
     "sequences decoded together by a thread; 0: 32, with beams 32 / beams"},
    ROW_SEED,
    ROW_DTYPE,
    {"memory_limit", INGOT_KEY_SIZE, false, "0", NULL, GATHER_FIELD(memory_limit_bytes),
     "memory of a rank at most: fewer threads decode; 0: no limit"},
    {"output", INGOT_KEY_STRING, true, NULL, NULL, FIELD(output), "where to write: .u16, .u32, or .h5"},
    ROW_DURABLE,
    {.name = NULL},
};

static const ingot_value *member(const ingot_job_step *step, const char *name)
{
  const ingot_value *v = ingot_value_member(step->value, name);
  return v ? v : step->value;
}

static void need(const ingot_job_step *step, const char *key, bool good, const char *text, ingot_problems *problems)
{
  if (!good) ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %s", ingot_value_place(member(step, key)), text);
}

/* Keys that say nothing here. */
static void refuse(const ingot_job_step *step, const char *const *keys, int n, const char *what,
                   ingot_problems *problems)
{
  for (int i = 0; i < n; i++) {
    const ingot_value *v = ingot_value_member(step->value, keys[i]);
    if (v) ingot_problems_add(problems, INGOT_ERR_JOB, "%s: it is for %s", ingot_value_place(v), what);
  }
}

static void check_search(const ingot_job_step *step, const ingot_generate_settings *s, ingot_problems *problems)
{
  static const char *const of_sample[] = {"temperature", "top_k", "top_p"};
  static const char *const of_beam[] = {"beams", "length_penalty", "select"};
  if (s->search != INGOT_SEARCH_SAMPLE) refuse(step, of_sample, 3, "search = \"sample\"", problems);
  if (s->search != INGOT_SEARCH_BEAM) refuse(step, of_beam, 3, "search = \"beam\"", problems);
  need(step, "samples", s->samples == 1 || s->search == INGOT_SEARCH_SAMPLE,
       "without drawing, all sequences of a prompt are the same: samples = 1", problems);
}

static void check_prompts(const ingot_job_step *step, const ingot_generate_settings *s, ingot_problems *problems)
{
  static const char *const of_data[] = {"prompts", "prompt", "prompt_end", "document", "stride", "limit", "shuffle"};
  bool                     documents = s->prompts == 1;
  if (!s->ensemble.gather.data_value) {
    refuse(step, of_data, 7, "prompts from \"data\"", problems);
    need(step, "begin", s->has_begin, "without \"data\" every sequence starts with \"begin\", which is missing",
         problems);
    need(step, "select", s->select == INGOT_SELECT_BEST,
         "it compares with the data behind the prompt, and there is no \"data\"", problems);
  }
  need(step, "prompts", !documents || s->ensemble.gather.has_document,
       "prompts = \"documents\" needs \"document\", the id that begins a document", problems);
  need(step, "stride", !documents || !ingot_value_member(step->value, "stride"), "stride is for prompts = \"windows\"",
       problems);
}

static void check_rows(const ingot_job_step *step, const ingot_generate_settings *s, ingot_problems *problems)
{
  int64_t longest = s->prompt + s->length;
  need(step, "truncated", s->truncated == 0 || s->has_end,
       "truncated = \"drop\" needs \"end\", the id that ends a sequence", problems);
  if (s->row == 0) {
    need(step, "fill", !s->has_fill, "fill is for rows: row = the tokens of one", problems);
    return;
  }
  if (s->row < longest)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: a row of %lld tokens, and a sequence may have %lld (prompt + length)",
                       ingot_value_place(member(step, "row")), (long long)s->row, (long long)longest);
  need(step, "row", s->has_end || s->has_fill, "rows need \"fill\" (or \"end\"), the id that fills them", problems);
}

static bool ends_with(const char *s, const char *end)
{
  size_t n = strlen(s), m = strlen(end);
  return n > m && strcmp(s + n - m, end) == 0;
}

static void check_output(const ingot_job_step *step, const ingot_generate_settings *s, ingot_problems *problems)
{
  if (s->output && !ends_with(s->output, ".u16") && !ends_with(s->output, ".u32") &&
      ingot_sink_format_of(s->output) != INGOT_SINK_HDF5)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: tokens are written to a .u16, a .u32 or a .h5 file",
                       ingot_value_place(member(step, "output")));
}

ingot_status ingot_generate_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status             st = INGOT_OK;
  ingot_generate_settings *s = step->settings;
  ingot_job_step           logits = *step;
  logits.settings = &s->ensemble;
  INGOT_TRY(ingot_ensemble_settings_read(job, &logits, problems));
  s->has_prompt_end = ingot_value_member(step->value, "prompt_end") != NULL;
  s->has_begin = ingot_value_member(step->value, "begin") != NULL;
  s->has_end = ingot_value_member(step->value, "end") != NULL;
  s->has_fill = ingot_value_member(step->value, "fill") != NULL;
  check_search(step, s, problems);
  check_prompts(step, s, problems);
  check_rows(step, s, problems);
  check_output(step, s, problems);
  s->ensemble.gather.window = s->prompt + s->length;
done:
  return st;
}
