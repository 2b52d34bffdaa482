// Any bytes as a configuration: it must be read or refused with a problem, without a leak, a hang or a crash.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "bitflow/config/config_load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config_problems problems;
    config_problems_init(&problems);
    const struct config *config = config_load_text("fuzz", (const char *)data, size, &problems);
    if ((config == NULL) != (problems.count > 0) || (problems.count > 0) != (problems.kept > 0))
        abort();
    if (config != NULL && (config->proxy_count == 0 || config->proxies[0].target_count == 0))
        abort();
    config_drop(&config);
    config_problems_release(&problems);
    return 0;
}
