// mbedTLS's own functions, where the program has one of the same name that its library calls in their place.

#ifndef BITFLOW_SRC_TLS_ENGINE_ORIGINAL_H
#define BITFLOW_SRC_TLS_ENGINE_ORIGINAL_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

// `function` is a pointer to a pointer to a function of that type. False: there is none, and it is NULL.
static inline bool find_original(const char *name, void *function)
{
    void *address = dlsym(RTLD_NEXT, name);
    memcpy(function, &address, sizeof address);
    return address != NULL;
}

#endif
