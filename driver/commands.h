/**
 * The commands of the program. Each is a const descriptor in driver/cmd_<name>.c and a row in commands.c: main parses
 * the command line by the descriptor's tables, answers --help from them, and prints a command's error once.
 */
#ifndef INGOT_DRIVER_COMMANDS_H
#define INGOT_DRIVER_COMMANDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/comm.h"
#include "base/status.h"

/** One option of a command. A table of them ends with a row whose name is NULL. */
typedef struct ingot_option {
  const char *name;  /* with dashes: "--json" */
  const char *value; /* what follows it, for the help: "FILE"; "[=N]" when it may be left out; NULL for a flag */
  const char *help;  /* one line */
} ingot_option;

typedef struct ingot_command ingot_command;

/** A parsed command line. All strings are argv's own. */
typedef struct ingot_command_line {
  const ingot_command *command;
  const char         **args; /* [n_arg], within the command's min_args and max_args */
  int                  n_arg;
  int                 *option; /* [n_given]: index into command->options, in the order given */
  const char         **value;  /* [n_given]: NULL for a flag */
  int                  n_given;
} ingot_command_line;

/** What main lends to a command. */
typedef struct ingot_command_context {
  ingot_comm       *comm; /* all ranks; for collective commands only */
  const atomic_int *stop; /* becomes non-zero when SIGTERM or SIGUSR1 asks for a stop */
} ingot_command_context;

struct ingot_command {
  const char         *name;
  const char         *arguments; /* for the help: "A B" */
  const char         *summary;   /* one line */
  const ingot_option *options;   /* NULL: none */
  int                 min_args, max_args;
  bool                collective; /* all ranks run it; otherwise rank 0 does, and the others wait for it */
  /** Results go to stdout. The error message, if any, is printed by main. */
  ingot_status (*run)(const ingot_command_context *context, const ingot_command_line *line);
};

extern const ingot_command ingot_command_run;     /* cmd_run.c */
extern const ingot_command ingot_command_plan;    /* cmd_plan.c */
extern const ingot_command ingot_command_methods; /* cmd_methods.c */
extern const ingot_command ingot_command_inspect; /* cmd_inspect.c */
extern const ingot_command ingot_command_diff;    /* cmd_diff.c */
extern const ingot_command ingot_command_verify;  /* cmd_verify.c */
extern const ingot_command ingot_command_export;  /* cmd_export.c */
extern const ingot_command ingot_command_import;  /* cmd_import.c */
extern const ingot_command ingot_command_report;  /* cmd_report.c */

/** All commands in the order of the help; NULL at the end. */
extern const ingot_command *const ingot_commands[];

/** True when an option was given. */
bool ingot_line_has(const ingot_command_line *line, const char *option);
/** The value of an option (the last one given), or NULL. */
const char *ingot_line_value(const ingot_command_line *line, const char *option);

/**
 * Parse argv[0..argc), which follow the command's name, into *line, whose arrays live in one allocation: free it with
 * ingot_line_release. Accepts "--name value" and "--name=value"; "--" ends the options.
 * INGOT_ERR_USAGE names the word and the nearest option.
 */
ingot_status ingot_line_parse(const ingot_command *command, int argc, char **argv, ingot_command_line *line);
void         ingot_line_release(ingot_command_line *line);

/** Find a command by name. INGOT_ERR_USAGE with the nearest name. */
ingot_status ingot_command_find(const char *name, const ingot_command **out);
/** Print the help of one command, or of the program when command is NULL, to stdout. */
void ingot_command_help(const ingot_command *command);

#endif
