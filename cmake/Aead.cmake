# Which library protects TLS records. mbedTLS does the handshakes either way; libcrypto is ten times as fast at AES-GCM,
# and where libcurl is built on it, it is in the process already. BITFLOW_AEAD_LIBCRYPTO is 1 or 0 afterwards.

set(BITFLOW_AEAD "auto" CACHE STRING "Record protection: libcrypto, mbedtls, or auto (libcrypto when it is found)")
set_property(CACHE BITFLOW_AEAD PROPERTY STRINGS auto libcrypto mbedtls)

set(BITFLOW_AEAD_LIBCRYPTO 0)
if(BITFLOW_AEAD STREQUAL "libcrypto")
    find_package(OpenSSL 3.0 REQUIRED COMPONENTS Crypto)
    set(BITFLOW_AEAD_LIBCRYPTO 1)
elseif(BITFLOW_AEAD STREQUAL "auto")
    find_package(OpenSSL 3.0 QUIET COMPONENTS Crypto)
    if(TARGET OpenSSL::Crypto AND OPENSSL_VERSION VERSION_GREATER_EQUAL 3.0)
        set(BITFLOW_AEAD_LIBCRYPTO 1)
    endif()
elseif(NOT BITFLOW_AEAD STREQUAL "mbedtls")
    message(FATAL_ERROR "BITFLOW_AEAD is '${BITFLOW_AEAD}': expected auto, libcrypto or mbedtls")
endif()

if(BITFLOW_AEAD_LIBCRYPTO)
    message(STATUS "TLS records are protected by libcrypto ${OPENSSL_VERSION}")
else()
    message(STATUS "TLS records are protected by mbedTLS")
endif()
