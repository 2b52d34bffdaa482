# How every target of bitflow is compiled and linked: the interface library bitflow_compile carries it.

option(BITFLOW_WERROR "Treat warnings as errors" OFF)
option(BITFLOW_FUZZ "Build the fuzz targets (clang, libFuzzer) in place of the program and its tests" OFF)
set(BITFLOW_SANITIZE "" CACHE STRING "Sanitizers to build with, as in -fsanitize=")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Release or Debug" FORCE)
endif()

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# A release has its symbols and its assertions: it is debugged in production with gdb, and a proxy that has lost track
# of its own state must stop rather than go on.
set(CMAKE_C_FLAGS_RELEASE "-O2 -g")
set(CMAKE_C_FLAGS_DEBUG "-O0 -g3")
# What the sanitizers are built with: quick enough for tests that move much data, and still readable in a debugger.
set(CMAKE_C_FLAGS_SANITIZE "-O1 -g")

check_pie_supported(LANGUAGES C)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

add_library(bitflow_compile INTERFACE)

target_compile_definitions(bitflow_compile INTERFACE _GNU_SOURCE)

target_compile_options(bitflow_compile INTERFACE
    -fno-omit-frame-pointer -fstack-protector-strong
    -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wvla -Wundef
    -Wwrite-strings)
if(CMAKE_C_COMPILER_ID MATCHES "Clang")
    target_compile_options(bitflow_compile INTERFACE -Wthread-safety)
endif()
if(BITFLOW_WERROR)
    target_compile_options(bitflow_compile INTERFACE -Werror)
endif()

target_link_options(bitflow_compile INTERFACE -Wl,--as-needed -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack)

if(BITFLOW_SANITIZE)
    target_compile_options(bitflow_compile INTERFACE
        -fsanitize=${BITFLOW_SANITIZE} -fno-sanitize-recover=all)
    target_link_options(bitflow_compile INTERFACE -fsanitize=${BITFLOW_SANITIZE})
elseif(CMAKE_BUILD_TYPE STREQUAL "Release")
    # Needs optimization, and would hide from the sanitizers what they look for. Some compilers predefine a level.
    target_compile_options(bitflow_compile INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
endif()

if(BITFLOW_FUZZ)
    if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
        message(FATAL_ERROR "BITFLOW_FUZZ needs clang (libFuzzer); this is ${CMAKE_C_COMPILER_ID}")
    endif()
    target_compile_options(bitflow_compile INTERFACE -fsanitize=fuzzer-no-link)
endif()
