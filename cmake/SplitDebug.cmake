# Run by cpack between the installation into its directory and the packing: what only a debugger needs of the program
# goes to a package of its own, bitflow-dbgsym, as Debian's are. The names of functions stay, for reports of crashes.

cmake_minimum_required(VERSION 3.25)

set(program "${CPACK_TEMPORARY_INSTALL_DIRECTORY}/usr/bin/bitflow")
set(build "${CPACK_PACKAGE_DIRECTORY}/dbgsym")
set(version "${CPACK_PACKAGE_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}")

function(run)
    execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    set(output "${output}" PARENT_SCOPE)
endfunction()

run(dpkg --print-architecture)
set(architecture "${output}")
run(readelf -n "${program}")
if(NOT output MATCHES "Build ID: ([0-9a-f][0-9a-f])([0-9a-f]+)")
    message(FATAL_ERROR "${program} has no build ID")
endif()
set(id "${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
set(debug "${build}/usr/lib/debug/.build-id/${CMAKE_MATCH_1}/${CMAKE_MATCH_2}.debug")

file(REMOVE_RECURSE "${build}")
cmake_path(GET debug PARENT_PATH place)
file(MAKE_DIRECTORY "${place}" "${build}/DEBIAN" "${build}/usr/share/doc")
run(objcopy --only-keep-debug --compress-debug-sections "${program}" "${debug}")
run(objcopy --strip-debug "--add-gnu-debuglink=${debug}" "${program}")
file(CHMOD "${debug}" PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)
file(CREATE_LINK bitflow "${build}/usr/share/doc/bitflow-dbgsym" SYMBOLIC)
file(WRITE "${build}/DEBIAN/control" "Package: bitflow-dbgsym
Source: bitflow
Version: ${version}
Architecture: ${architecture}
Maintainer: ${CPACK_DEBIAN_PACKAGE_MAINTAINER}
Depends: bitflow (= ${version})
Auto-Built-Package: debug-symbols
Build-Ids: ${id}
Section: debug
Priority: optional
Description: debug symbols for bitflow
")
run(dpkg-deb --root-owner-group --build "${build}"
    "${CPACK_PACKAGE_DIRECTORY}/bitflow-dbgsym_${version}_${architecture}.deb")
file(REMOVE_RECURSE "${build}")
