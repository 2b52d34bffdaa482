# What is installed beside the program, and the Debian package: cpack -G DEB --config build/release/CPackConfig.cmake

set(BITFLOW_MAINTAINER "bitflow maintainers <maintainers@bitflow.example>" CACHE STRING "Whom the package names")
set(BITFLOW_DEBIAN_REVISION 1 CACHE STRING "The package's own revision, after the version's hyphen")

find_program(GZIP gzip REQUIRED)
set(packaging "${PROJECT_SOURCE_DIR}/packaging")
set(made "${PROJECT_BINARY_DIR}/packaging")
file(MAKE_DIRECTORY "${made}")

# ---- the manual

configure_file("${packaging}/man/bitflow.1.in" "${made}/bitflow.1" @ONLY)
add_executable(manual_keys "${packaging}/man/keys.c")
target_include_directories(manual_keys PRIVATE "${PROJECT_SOURCE_DIR}/src")
target_link_libraries(manual_keys PRIVATE bitflow_core bitflow_compile)
set(table "${PROJECT_SOURCE_DIR}/docs/configuration.md")
add_custom_command(OUTPUT "${made}/bitflow.yaml.5"
    COMMAND manual_keys "${packaging}/man/bitflow.yaml.5.in" "${table}" > "${made}/bitflow.yaml.5"
    DEPENDS manual_keys "${packaging}/man/bitflow.yaml.5.in" "${table}" VERBATIM)

# ---- the bill of materials

add_custom_command(OUTPUT "${made}/bitflow.spdx.json"
    COMMAND "${CMAKE_COMMAND}" -D "PROGRAM=$<TARGET_FILE:bitflow>" -D "VERSION=${PROJECT_VERSION}"
        -D "OUTPUT=${made}/bitflow.spdx.json" -P "${PROJECT_SOURCE_DIR}/cmake/Sbom.cmake"
    DEPENDS bitflow "${PROJECT_SOURCE_DIR}/cmake/Sbom.cmake" VERBATIM)
add_custom_target(sbom DEPENDS "${made}/bitflow.spdx.json")

# ---- what is compressed, without a time in it: the same build gives the same files

configure_file("${packaging}/debian/changelog.in" "${made}/changelog.Debian" @ONLY)
function(compress source name)
    add_custom_command(OUTPUT "${made}/${name}.gz" COMMAND "${GZIP}" -9nc "${source}" > "${made}/${name}.gz"
        DEPENDS "${source}" VERBATIM)
    set_property(GLOBAL APPEND PROPERTY bitflow_compressed "${made}/${name}.gz")
endfunction()
compress("${made}/bitflow.1" bitflow.1)
compress("${made}/bitflow.yaml.5" bitflow.yaml.5)
compress("${made}/changelog.Debian" changelog.Debian)
compress("${PROJECT_SOURCE_DIR}/CHANGELOG.md" changelog)
get_property(compressed GLOBAL PROPERTY bitflow_compressed)
add_custom_target(packaging ALL DEPENDS ${compressed} sbom)

# ---- for every installation

install(FILES "${made}/bitflow.1.gz" DESTINATION "${CMAKE_INSTALL_MANDIR}/man1")
install(FILES "${made}/bitflow.yaml.5.gz" DESTINATION "${CMAKE_INSTALL_MANDIR}/man5")
install(FILES "${packaging}/completion/bitflow.bash"
    DESTINATION "${CMAKE_INSTALL_DATADIR}/bash-completion/completions" RENAME bitflow)
install(FILES README.md config.example.yaml "${made}/bitflow.spdx.json" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
install(DIRECTORY docs DESTINATION "${CMAKE_INSTALL_DOCDIR}" FILES_MATCHING PATTERN "*.md" PATTERN "*.json"
    PATTERN benchmarks EXCLUDE)

# ---- for the Debian package alone: what belongs to the system, wherever the rest is

macro(install_for_debian kind source directory name)
    install(${kind} "${source}" DESTINATION "${directory}" RENAME "${name}" COMPONENT debian EXCLUDE_FROM_ALL)
endmacro()
install_for_debian(FILES "${PROJECT_SOURCE_DIR}/config.example.yaml" /etc/bitflow config.yaml)
install_for_debian(FILES "${packaging}/debian/logrotate" /etc/logrotate.d bitflow)
install_for_debian(FILES "${packaging}/debian/copyright" /usr/share/doc/bitflow copyright)
install_for_debian(FILES "${made}/changelog.Debian.gz" /usr/share/doc/bitflow changelog.Debian.gz)
install_for_debian(FILES "${made}/changelog.gz" /usr/share/doc/bitflow changelog.gz)
install_for_debian(FILES "${packaging}/debian/lintian-overrides" /usr/share/lintian/overrides bitflow)

# What is built is packed; cpack does not build.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VENDOR "${PROJECT_NAME}")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_INSTALL_CMAKE_PROJECTS "${PROJECT_BINARY_DIR};bitflow;ALL;/" "${PROJECT_BINARY_DIR};bitflow;debian;/")
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES OFF)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_PRE_BUILD_SCRIPTS "${PROJECT_SOURCE_DIR}/cmake/SplitDebug.cmake")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE "${BITFLOW_DEBIAN_REVISION}")
set(CPACK_DEBIAN_PACKAGE_MAINTAINER "${BITFLOW_MAINTAINER}")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION "bitflow relays TCP connections between networks: over IPv4, IPv6, Unix
domain sockets and inherited descriptors, with TLS on either side, by SOCKS5,
with the PROXY protocol in and out. One process runs any number of
independent proxies; every connection has a thread that carries its name,
and a record in a log.")
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS ca-certificates)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "logrotate, bitflow-dbgsym")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
foreach(name IN ITEMS conffiles postinst prerm postrm)
    list(APPEND CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA "${packaging}/debian/${name}")
endforeach()
include(CPack)
