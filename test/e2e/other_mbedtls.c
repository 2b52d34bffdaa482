// Another mbedTLS than the one that bitflow was built with, as far as its own account goes; OTHER_MBEDTLS says which.

#include <stdlib.h>
#include <string.h>

#include <mbedtls/version.h>

unsigned int mbedtls_version_get_number(void)
{
    return strcmp(getenv("OTHER_MBEDTLS"), "old") == 0 ? 0x03060000 : MBEDTLS_VERSION_NUMBER;
}

void mbedtls_version_get_string_full(char *string)
{
    strcpy(string, "mbed TLS 3.6.0");
}

// 0: it was built with that.
int mbedtls_version_check_feature(const char *feature)
{
    int is_limiting = strcmp(getenv("OTHER_MBEDTLS"), "limiting") == 0;
    if (strcmp(feature, "MBEDTLS_SSL_RECORD_SIZE_LIMIT") == 0)
        return is_limiting ? 0 : -1;
    return strcmp(feature, getenv("OTHER_MBEDTLS")) == 0 ? -1 : 0;
}
