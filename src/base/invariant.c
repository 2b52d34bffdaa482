#include "bitflow/base/invariant.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void invariant_broken(const char *condition, const char *file, int line)
{
    char text[256];
    int length = snprintf(text, sizeof text, "%s:%d: broken invariant: %s\n", file, line, condition);
    size_t shown = length < 0 ? 0 : (size_t)length < sizeof text ? (size_t)length : sizeof text - 1;
    (void)!write(STDERR_FILENO, text, shown);
    abort();
}
