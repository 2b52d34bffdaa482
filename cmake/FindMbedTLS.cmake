# Finds mbedTLS: the imported targets MbedTLS::mbedtls, MbedTLS::mbedx509, MbedTLS::mbedcrypto; MbedTLS_VERSION.

find_path(MbedTLS_INCLUDE_DIR mbedtls/ssl.h)
find_library(MbedTLS_LIBRARY mbedtls)
find_library(MbedTLS_X509_LIBRARY mbedx509)
find_library(MbedTLS_CRYPTO_LIBRARY mbedcrypto)
mark_as_advanced(MbedTLS_INCLUDE_DIR MbedTLS_LIBRARY MbedTLS_X509_LIBRARY MbedTLS_CRYPTO_LIBRARY)

# The version's header moved between 2.x and 3.x.
foreach(header build_info.h version.h)
    if(MbedTLS_INCLUDE_DIR AND NOT MbedTLS_VERSION AND EXISTS "${MbedTLS_INCLUDE_DIR}/mbedtls/${header}")
        file(STRINGS "${MbedTLS_INCLUDE_DIR}/mbedtls/${header}" line
            REGEX "^#define[ \t]+MBEDTLS_VERSION_STRING[ \t]+\"" LIMIT_COUNT 1)
        if(line)
            string(REGEX REPLACE ".*\"([0-9.]+)\".*" "\\1" MbedTLS_VERSION "${line}")
        endif()
    endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(MbedTLS
    REQUIRED_VARS MbedTLS_LIBRARY MbedTLS_X509_LIBRARY MbedTLS_CRYPTO_LIBRARY MbedTLS_INCLUDE_DIR
    VERSION_VAR MbedTLS_VERSION
    REASON_FAILURE_MESSAGE "On Debian, cmake/install-deps.sh installs a new enough mbedTLS (Debian 12's own is 2.28)")

if(MbedTLS_FOUND AND NOT TARGET MbedTLS::mbedtls)
    foreach(name mbedcrypto mbedx509 mbedtls)
        add_library(MbedTLS::${name} UNKNOWN IMPORTED)
        set_target_properties(MbedTLS::${name} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${MbedTLS_INCLUDE_DIR}")
    endforeach()
    set_target_properties(MbedTLS::mbedcrypto PROPERTIES IMPORTED_LOCATION "${MbedTLS_CRYPTO_LIBRARY}")
    set_target_properties(MbedTLS::mbedx509 PROPERTIES IMPORTED_LOCATION "${MbedTLS_X509_LIBRARY}"
        INTERFACE_LINK_LIBRARIES MbedTLS::mbedcrypto)
    set_target_properties(MbedTLS::mbedtls PROPERTIES IMPORTED_LOCATION "${MbedTLS_LIBRARY}"
        INTERFACE_LINK_LIBRARIES MbedTLS::mbedx509)
endif()
