// What the program was built with and what it runs with, for --version and reports of faults: the libraries' versions
// as the libraries tell them, how the compiler was called, and how the program's file is hardened. Any thread.

#ifndef BITFLOW_SERVER_BUILD_INFO_H
#define BITFLOW_SERVER_BUILD_INFO_H

#define BUILD_INFO_SIZE 2048

// Lines of "what: value".
void build_info_format(char out[BUILD_INFO_SIZE]);

#endif
