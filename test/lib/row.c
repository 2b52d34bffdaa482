#include "row.h"

static const char *current;

bool row_at(const char *name)
{
    current = name;
    return name != NULL;
}

int row_tell(void **state)
{
    (void)state;
    if (current != NULL)
        print_error("the row: %s\n", current);
    current = NULL;
    return 0;
}
