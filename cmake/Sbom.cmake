# Writes the bill of materials of a program as SPDX 2.3 JSON: the packages of all shared libraries that the dynamic
# linker loads for it on this machine, with their versions, and which of them need which.
#
#   cmake -D PROGRAM=FILE -D VERSION=X -D OUTPUT=FILE -P Sbom.cmake
#
# A library that no package of Debian's owns stands for itself, with its checksum. SOURCE_DATE_EPOCH is obeyed.

cmake_minimum_required(VERSION 3.25)

function(read_output variable)
    execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE errors RESULT_VARIABLE status
        OUTPUT_STRIP_TRAILING_WHITESPACE)
    set(${variable} "${output}" PARENT_SCOPE)
    set(status "${status}" PARENT_SCOPE)
endfunction()

function(quote variable text)
    string(REPLACE "\\" "\\\\" text "${text}")
    string(REPLACE "\"" "\\\"" text "${text}")
    set(${variable} "\"${text}\"" PARENT_SCOPE)
endfunction()

# The names of the libraries that a file needs.
function(needed_by file variable)
    read_output(dynamic readelf -d "${file}")
    string(REGEX MATCHALL "Shared library: .[^]\n]+" lines "${dynamic}")
    string(REGEX REPLACE "Shared library: ." "" lines "${lines}")
    set(${variable} "${lines}" PARENT_SCOPE)
endfunction()

# The names by which a package may have a library: below /usr/lib or below /lib, and what a link leads to.
function(places_of file variable)
    file(REAL_PATH "${file}" real)
    string(REGEX REPLACE "^/usr" "" short "${file}")
    string(REGEX REPLACE "^/usr" "" short_real "${real}")
    set(${variable} "${short}" "/usr${short}" "${short_real}" "/usr${short_real}" PARENT_SCOPE)
endfunction()

function(spdx_id variable name)
    string(REGEX REPLACE "[^A-Za-z0-9.-]" "-" id "SPDXRef-Package-${name}")
    set(${variable} "${id}" PARENT_SCOPE)
endfunction()

function(relation variable from type to)
    quote(from "${from}")
    quote(type "${type}")
    quote(to "${to}")
    set(${variable} "{\"spdxElementId\": ${from}, \"relationshipType\": ${type}, \"relatedSpdxElement\": ${to}}"
        PARENT_SCOPE)
endfunction()

# What both kinds of package have; the caller adds the rest.
function(begin_package variable id name version)
    quote(id "${id}")
    quote(name "${name}")
    quote(version "${version}")
    set(${variable} "    {
      \"SPDXID\": ${id},
      \"name\": ${name},
      \"versionInfo\": ${version},
      \"downloadLocation\": \"NOASSERTION\",
      \"filesAnalyzed\": false,
      \"licenseConcluded\": \"NOASSERTION\",
      \"licenseDeclared\": \"NOASSERTION\",
      \"copyrightText\": \"NOASSERTION\"" PARENT_SCOPE)
endfunction()

# Sets text and id: of Debian's package, or of a library that has none.
function(describe_library file)
    cmake_path(GET file FILENAME name)
    set(owner "")
    places_of("${file}" places)
    foreach(place IN LISTS places)
        if(owner STREQUAL "")
            set(owner "${owner_of_${place}}")
        endif()
    endforeach()
    if(owner STREQUAL "")
        spdx_id(id "${name}")
        file(SHA256 "${file}" checksum)
        begin_package(text "${id}" "${name}" "unknown")
        string(APPEND text ",
      \"checksums\": [{\"algorithm\": \"SHA256\", \"checksumValue\": \"${checksum}\"}]
    }")
    else()
        set(format "\${Package}|\${Version}|\${Architecture}|\${source:Package}|\${source:Version}")
        read_output(fields dpkg-query -W -f "${format}" "${owner}")
        string(REPLACE "|" ";" fields "${fields}")
        list(GET fields 0 package)
        list(GET fields 1 version)
        list(GET fields 2 architecture)
        list(GET fields 3 source)
        list(GET fields 4 source_version)
        spdx_id(id "${package}")
        begin_package(text "${id}" "${package}" "${version}")
        string(REPLACE "+" "%2B" purl_name "${package}")
        string(REPLACE "+" "%2B" purl_version "${version}")
        string(REPLACE ":" "%3A" purl_version "${purl_version}")
        string(APPEND text ",
      \"supplier\": \"Organization: Debian\",
      \"sourceInfo\": \"built from the source package ${source} ${source_version}\",
      \"primaryPackagePurpose\": \"LIBRARY\",
      \"externalRefs\": [{
        \"referenceCategory\": \"PACKAGE-MANAGER\",
        \"referenceType\": \"purl\",
        \"referenceLocator\": \"pkg:deb/debian/${purl_name}@${purl_version}?arch=${architecture}\"
      }]
    }")
    endif()
    set(text "${text}" PARENT_SCOPE)
    set(id "${id}" PARENT_SCOPE)
endfunction()

# "name => path" and "path": the first are libraries, the second the dynamic linker.
read_output(linked ldd "${PROGRAM}")
string(REGEX MATCHALL "[^\n\t ]+ => /[^ \n]+|\t/[^ \n]+" lines "${linked}")
list(LENGTH lines count)
if(NOT status EQUAL 0 OR count LESS 2)
    message(FATAL_ERROR "the libraries of ${PROGRAM} are not to be found")
endif()
foreach(line IN LISTS lines)
    string(REGEX REPLACE "^.* => |^\t" "" path "${line}")
    list(APPEND paths "${path}")
    places_of("${path}" places)
    list(APPEND all_places ${places})
endforeach()
read_output(owners dpkg-query -S ${all_places}) # it fails where some are in no package
string(REPLACE "\n" ";" owners "${owners}")
foreach(line IN LISTS owners)
    if(line MATCHES "^([^ ,]+): (/.*)$")
        set("owner_of_${CMAKE_MATCH_2}" "${CMAKE_MATCH_1}")
    endif()
endforeach()
foreach(path IN LISTS paths)
    cmake_path(GET path FILENAME name)
    describe_library("${path}")
    set("id_of_${name}" "${id}")
    list(APPEND names "${name}")
    set("path_of_${name}" "${path}")
    if(NOT id IN_LIST ids)
        list(APPEND ids "${id}")
        string(APPEND packages ",\n${text}")
    endif()
endforeach()

# Which package needs which.
set(program_id SPDXRef-Package-bitflow)
function(relate from file)
    needed_by("${file}" needed)
    foreach(name IN LISTS needed)
        set(to "${id_of_${name}}")
        relation(relation "${from}" DYNAMIC_LINK "${to}")
        if(NOT to STREQUAL "" AND NOT to STREQUAL from AND NOT relation IN_LIST relations)
            list(APPEND relations "${relation}")
        endif()
    endforeach()
    set(relations "${relations}" PARENT_SCOPE)
endfunction()
relate("${program_id}" "${PROGRAM}")
foreach(name IN LISTS names)
    relate("${id_of_${name}}" "${path_of_${name}}")
endforeach()
list(JOIN relations ",\n    " relations)

file(SHA256 "${PROGRAM}" checksum)
string(UUID uuid NAMESPACE 6ba7b811-9dad-11d1-80b4-00c04fd430c8 # of URLs
    NAME "bitflow ${VERSION} ${checksum} ${packages}" TYPE SHA1)
string(TIMESTAMP created "%Y-%m-%dT%H:%M:%SZ" UTC)
relation(describes SPDXRef-DOCUMENT DESCRIBES "${program_id}")
begin_package(program "${program_id}" "bitflow" "${VERSION}")
file(WRITE "${OUTPUT}" "{
  \"spdxVersion\": \"SPDX-2.3\",
  \"dataLicense\": \"CC0-1.0\",
  \"SPDXID\": \"SPDXRef-DOCUMENT\",
  \"name\": \"bitflow-${VERSION}\",
  \"documentNamespace\": \"https://bitflow.example/spdx/bitflow-${VERSION}-${uuid}\",
  \"creationInfo\": {
    \"created\": \"${created}\",
    \"creators\": [\"Tool: bitflow-build-${VERSION}\"]
  },
  \"packages\": [
${program},
      \"primaryPackagePurpose\": \"APPLICATION\",
      \"checksums\": [{\"algorithm\": \"SHA256\", \"checksumValue\": \"${checksum}\"}]
    }${packages}
  ],
  \"relationships\": [
    ${describes},
    ${relations}
  ]
}
")
