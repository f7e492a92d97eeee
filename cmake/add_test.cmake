# Tests. Every one has a time limit and labels; one that needs several ranks is added once for each count.
#
#   ingot_unit_test(NAME test_dtype SOURCES test_dtype.c USES base [LINKS ...] [LABELS ...])
#   ingot_script_test(NAME job_errors COMMAND ... [TIMEOUT 60] [LABELS ...])   $INGOT is the program
#   ingot_mpi_test(NAME comm_4 RANKS 4 COMMAND ...)                            a program of its own under mpirun

# Several ranks on few cores, as root in a container, and no network between them.
set(INGOT_MPI_ENVIRONMENT OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
    OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl=self,vader OMPI_MCA_pml=ob1
    PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe) # the last for Open MPI 5
# Open MPI loads and unloads modules that keep memory: leaks are looked for where no MPI runs (unit tests; all tests of a
# build without MPI).
if(INGOT_MPI)
  list(APPEND INGOT_MPI_ENVIRONMENT ASAN_OPTIONS=detect_leaks=0)
endif()

# Open MPI keeps its files in a folder that all runs of a user share, and the last one to end removes it, maybe just when
# another begins: each test has one of its own.
function(ingot_mpi_environment out name)
  set(folder ${PROJECT_BINARY_DIR}/mpi/${name})
  file(MAKE_DIRECTORY ${folder})
  set(${out} "${INGOT_MPI_ENVIRONMENT};OMPI_MCA_orte_tmpdir_base=${folder}" PARENT_SCOPE)
endfunction()

# Programs that run models end with threads of the OpenMP runtime, over which the leak checker itself crashes now and then:
# for a script test of such steps it is off, unit tests of the same code keep it.
function(ingot_no_leak_check)
  foreach(name ${ARGN})
    set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT ASAN_OPTIONS=detect_leaks=0)
  endforeach()
endfunction()

function(ingot_unit_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SOURCES;USES;LINKS;LABELS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  foreach(used ${ARG_USES} base)
    target_include_directories(${ARG_NAME} PRIVATE ${PROJECT_BINARY_DIR}/include/${used})
  endforeach()
  target_include_directories(${ARG_NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_USES} base PkgConfig::CMOCKA m ${ARG_LINKS})
  target_compile_definitions(${ARG_NAME} PRIVATE INGOT_TEST_DIR="${PROJECT_SOURCE_DIR}/tests")
  ingot_warnings(${ARG_NAME})
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "unit;${ARG_LABELS}"
    ENVIRONMENT "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/lsan.supp")
endfunction()

function(ingot_script_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "COMMAND;LABELS" ${ARGN})
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_COMMAND})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set(mpi OFF)
  if(INGOT_MPI)
    set(mpi ON)
  endif()
  ingot_mpi_environment(environment ${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "integration;${ARG_LABELS}" SKIP_RETURN_CODE 77
    ENVIRONMENT "INGOT=$<TARGET_FILE:ingot>;INGOT_HAVE_MPI=${mpi};${environment}")
endfunction()

function(ingot_mpi_test)
  cmake_parse_arguments(ARG "" "NAME;RANKS;TIMEOUT" "COMMAND;LABELS" ${ARGN})
  add_test(NAME ${ARG_NAME} COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ARG_RANKS} ${ARG_COMMAND})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  ingot_mpi_environment(environment ${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "mpi;${ARG_LABELS}"
    ENVIRONMENT "${environment}")
endfunction()
