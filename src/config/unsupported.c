// Keys whose feature is not built yet: a configuration that uses one does not start, so that none is silently ignored.
// Whoever builds a feature deletes its line here.

#include "bitflow/config/checks.h"

static void report(struct problem_list *problems, const struct place *parent, const char *key)
{
    struct place place = place_key(parent, key);
    problem_at_key(problems, &place, "not supported yet");
}

void check_unsupported(const struct place *root, const struct config *config, struct problem_list *problems)
{
    struct place application = place_key(root, "application");
}
