# One static library a folder, and the include rule of docs/architecture.md made real: a library sees its own headers
# and those of the libraries that it may use, because each has an include folder that holds nothing else.
#
#   ingot_library(io USES base SOURCES a.c b.c LINKS PkgConfig::JANSSON)
function(ingot_library name)
  cmake_parse_arguments(ARG "" "" "USES;SOURCES;LINKS" ${ARGN})
  set(include_dir ${PROJECT_BINARY_DIR}/include/${name})
  file(MAKE_DIRECTORY ${include_dir})
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${name} ${include_dir}/${name} SYMBOLIC)

  add_library(${name} STATIC ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES OUTPUT_NAME ingot_${name})
  target_include_directories(${name} PUBLIC ${include_dir})
  foreach(used ${ARG_USES})
    target_include_directories(${name} PRIVATE ${PROJECT_BINARY_DIR}/include/${used})
  endforeach()
  target_link_libraries(${name} PRIVATE ${ARG_USES} ${ARG_LINKS})
  ingot_warnings(${name})
endfunction()
