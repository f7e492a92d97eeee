#include "driver/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

const ingot_command *const ingot_commands[] = {
    &ingot_command_run,    &ingot_command_plan,   &ingot_command_methods, &ingot_command_inspect, &ingot_command_diff,
    &ingot_command_verify, &ingot_command_export, &ingot_command_import,  &ingot_command_report,  NULL,
};

enum { NAMES_MAX = 64 };

static int option_index(const ingot_command *command, const char *name, size_t length)
{
  for (int i = 0; command->options && command->options[i].name; i++)
    if (strlen(command->options[i].name) == length && memcmp(command->options[i].name, name, length) == 0) return i;
  return -1;
}

bool ingot_line_has(const ingot_command_line *line, const char *option)
{
  for (int i = 0; i < line->n_given; i++)
    if (strcmp(line->command->options[line->option[i]].name, option) == 0) return true;
  return false;
}

const char *ingot_line_value(const ingot_command_line *line, const char *option)
{
  const char *value = NULL;
  for (int i = 0; i < line->n_given; i++)
    if (strcmp(line->command->options[line->option[i]].name, option) == 0) value = line->value[i];
  return value;
}

static ingot_status unknown_option(const ingot_command *command, const char *word, size_t length)
{
  const char *names[NAMES_MAX];
  int         n = 0;
  char        name[128];
  snprintf(name, sizeof name, "%.*s", (int)length, word);
  for (int i = 0; command->options && command->options[i].name && n < NAMES_MAX; i++)
    names[n++] = command->options[i].name;
  const char *nearest = ingot_nearest_name(name, names, n);
  return ingot_fail(INGOT_ERR_USAGE, "ingot %s: unknown option %s%s%s%s; `ingot %s --help` lists them", command->name,
                    name, nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "", command->name);
}

/* One option at argv[*i]; moves *i over its value. */
static ingot_status take_option(const ingot_command *command, int argc, char **argv, int *i, ingot_command_line *line)
{
  const char *word = argv[*i];
  size_t      length = strcspn(word, "=");
  int         index = option_index(command, word, length);
  const char *value = word[length] == '=' ? word + length + 1 : NULL;
  if (index < 0) return unknown_option(command, word, length);
  const char *form = command->options[index].value;
  bool        may = form != NULL, wants = may && form[0] != '['; /* "[=N]": may have a value, behind a '=' only */
  if (!may && value) return ingot_fail(INGOT_ERR_USAGE, "%s takes no value", command->options[index].name);
  if (wants && !value && *i + 1 < argc) value = argv[++*i];
  if (wants && !value)
    return ingot_fail(INGOT_ERR_USAGE, "%s: its value %s is missing", command->options[index].name,
                      command->options[index].value);
  line->option[line->n_given] = index;
  line->value[line->n_given++] = value;
  return INGOT_OK;
}

ingot_status ingot_line_parse(const ingot_command *command, int argc, char **argv, ingot_command_line *line)
{
  ingot_status st = INGOT_OK;
  bool         options = true;
  size_t       n = (size_t)argc + 1;
  *line = (ingot_command_line){.command = command};
  line->args = calloc(n, 2 * sizeof(char *) + sizeof(int)); /* args, then values, then option numbers */
  INGOT_CHECK(line->args, INGOT_ERR_NOMEM, "no memory for the command line");
  line->value = line->args + n;
  line->option = (int *)(void *)(line->value + n);
  for (int i = 0; i < argc; i++) {
    if (options && strcmp(argv[i], "--") == 0) options = false;
    else if (options && argv[i][0] == '-' && argv[i][1] != '\0') INGOT_TRY(take_option(command, argc, argv, &i, line));
    else line->args[line->n_arg++] = argv[i];
  }
  INGOT_CHECK(line->n_arg >= command->min_args, INGOT_ERR_USAGE, "ingot %s: too few arguments: ingot %s %s",
              command->name, command->name, command->arguments);
  INGOT_CHECK(line->n_arg <= command->max_args, INGOT_ERR_USAGE,
              "ingot %s: \"%s\" is one argument too many: ingot %s %s", command->name, line->args[command->max_args],
              command->name, command->arguments);
  for (int i = 0; i < line->n_arg; i++)
    INGOT_CHECK(line->args[i][0] != '\0', INGOT_ERR_USAGE, "ingot %s: argument %d is empty: ingot %s %s", command->name,
                i + 1, command->name, command->arguments);
done:
  return st;
}

void ingot_line_release(ingot_command_line *line)
{
  free((void *)line->args);
  *line = (ingot_command_line){0};
}

ingot_status ingot_command_find(const char *name, const ingot_command **out)
{
  const char *names[NAMES_MAX];
  int         n = 0;
  for (int i = 0; ingot_commands[i]; i++) {
    if (strcmp(ingot_commands[i]->name, name) == 0) {
      *out = ingot_commands[i];
      return INGOT_OK;
    }
    names[n++] = ingot_commands[i]->name;
  }
  const char *nearest = ingot_nearest_name(name, names, n);
  return ingot_fail(INGOT_ERR_USAGE, "unknown command \"%s\"%s%s%s; `ingot --help` lists them", name,
                    nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
}

void ingot_command_help(const ingot_command *command)
{
  if (!command) {
    printf("ingot merges expert checkpoints into one model.\n\n");
    for (int i = 0; ingot_commands[i]; i++)
      printf("  ingot %-8s %-12s %s\n", ingot_commands[i]->name, ingot_commands[i]->arguments,
             ingot_commands[i]->summary);
    printf("  ingot --help\n  ingot --version\n\n"
           "`ingot COMMAND --help` lists a command's options.\n"
           "Exit codes: 0 done, 1 failed, 2 wrong command line or job file, 3 bad input data,\n"
           "75 stopped on request, the same command continues.\n");
    return;
  }
  printf("ingot %s %s\n  %s\n", command->name, command->arguments, command->summary);
  for (int i = 0; command->options && command->options[i].name; i++) {
    const ingot_option *o = &command->options[i];
    char                name[64];
    snprintf(name, sizeof name, "%s%s%s", o->name, o->value && o->value[0] != '[' ? " " : "", o->value ? o->value : "");
    printf("  %-26s %s\n", name, o->help);
  }
}
