# Which library does the arithmetic of mbedTLS's handshakes. libcrypto is three to ten times as fast; the program then
# has some of mbedTLS's functions itself, and mbedTLS's shared libraries call these (a static one would have them
# twice). BITFLOW_ARITHMETIC_LIBCRYPTO is 1 or 0 afterwards.

set(BITFLOW_ARITHMETIC "auto" CACHE STRING
    "Handshakes' arithmetic: libcrypto, mbedtls, or auto (libcrypto when it is found and mbedTLS is shared)")
set_property(CACHE BITFLOW_ARITHMETIC PROPERTY STRINGS auto libcrypto mbedtls)

set(BITFLOW_ARITHMETIC_LIBCRYPTO 0)
if(BITFLOW_ARITHMETIC STREQUAL "libcrypto")
    find_package(OpenSSL 3.0 REQUIRED COMPONENTS Crypto)
    set(BITFLOW_ARITHMETIC_LIBCRYPTO 1)
elseif(BITFLOW_ARITHMETIC STREQUAL "auto")
    find_package(OpenSSL 3.0 QUIET COMPONENTS Crypto)
    if(TARGET OpenSSL::Crypto AND OPENSSL_VERSION VERSION_GREATER_EQUAL 3.0 AND MbedTLS_VERSION VERSION_LESS 4.0 AND
       NOT MbedTLS_CRYPTO_LIBRARY MATCHES "[.]a$")
        set(BITFLOW_ARITHMETIC_LIBCRYPTO 1)
    endif()
elseif(NOT BITFLOW_ARITHMETIC STREQUAL "mbedtls")
    message(FATAL_ERROR "BITFLOW_ARITHMETIC is '${BITFLOW_ARITHMETIC}': expected auto, libcrypto or mbedtls")
endif()

if(BITFLOW_ARITHMETIC_LIBCRYPTO)
    message(STATUS "The arithmetic of handshakes is libcrypto's")
else()
    message(STATUS "The arithmetic of handshakes is mbedTLS's")
endif()

# What mbedTLS's libraries are to find in the program.
set(arithmetic_functions
    mbedtls_ecp_mul mbedtls_ecp_mul_restartable mbedtls_ecp_muladd mbedtls_ecp_muladd_restartable
    mbedtls_rsa_public mbedtls_rsa_private)
