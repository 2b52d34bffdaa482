# Finds GNU libmicrohttpd: the imported target Microhttpd::Microhttpd.

find_path(Microhttpd_INCLUDE_DIR microhttpd.h)
find_library(Microhttpd_LIBRARY microhttpd)
mark_as_advanced(Microhttpd_INCLUDE_DIR Microhttpd_LIBRARY)

# 0x00097500 is 0.9.75.
if(Microhttpd_INCLUDE_DIR)
    file(STRINGS "${Microhttpd_INCLUDE_DIR}/microhttpd.h" line REGEX "^#define[ \t]+MHD_VERSION[ \t]+0x" LIMIT_COUNT 1)
    string(REGEX REPLACE ".*0x([0-9]+).*" "\\1" digits "${line}")
    string(REGEX REPLACE "^0*([0-9]+)([0-9][0-9])([0-9][0-9])[0-9][0-9]$" "\\1.\\2.\\3" Microhttpd_VERSION
        "${digits}")
    string(REGEX REPLACE "[.]0([0-9])" ".\\1" Microhttpd_VERSION "${Microhttpd_VERSION}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Microhttpd
    REQUIRED_VARS Microhttpd_LIBRARY Microhttpd_INCLUDE_DIR
    VERSION_VAR Microhttpd_VERSION
    REASON_FAILURE_MESSAGE "On Debian, cmake/install-deps.sh installs it")

if(Microhttpd_FOUND AND NOT TARGET Microhttpd::Microhttpd)
    add_library(Microhttpd::Microhttpd UNKNOWN IMPORTED)
    set_target_properties(Microhttpd::Microhttpd PROPERTIES
        IMPORTED_LOCATION "${Microhttpd_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${Microhttpd_INCLUDE_DIR}")
endif()
