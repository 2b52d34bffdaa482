// Any bytes as a configuration: it must be read or refused with an error, without a leak, a hang or a crash.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "bitflow/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, "fuzz");
    const struct config *config = config_load_text((const char *)data, size, &diagnostics);
    if ((config == NULL) != (diagnostics.errors > 0) ||
        (diagnostics.errors + diagnostics.warnings > 0) != (diagnostics.kept > 0))
        abort();
    if (config != NULL && (config->proxy_count == 0 || config->proxies[0].target_count == 0))
        abort();
    config_drop(&config);
    diagnostics_release(&diagnostics);
    return 0;
}
