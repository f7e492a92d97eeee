# What a user may choose. INGOT_CUDA is three-valued: AUTO uses CUDA when it is there.
option(INGOT_MPI "Build with MPI and parallel HDF5" ON)
set(INGOT_CUDA AUTO CACHE STRING "Build the GPU path: AUTO, ON or OFF")
set_property(CACHE INGOT_CUDA PROPERTY STRINGS AUTO ON OFF)
option(INGOT_WERROR "Warnings are errors" OFF)
option(INGOT_SANITIZE "Build with AddressSanitizer and UndefinedBehaviorSanitizer" OFF)
option(INGOT_FUZZ "Build the libFuzzer targets (clang)" OFF)
option(INGOT_BUILD_TESTS "Build the tests (needs CMocka)" ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# Results are the same on every machine and on the GPU only when products and sums are not fused behind our back.
add_compile_options($<$<COMPILE_LANGUAGE:C>:-ffp-contract=off>)
set(CMAKE_C_FLAGS_RELEASE "-O3 -DNDEBUG")

if(INGOT_SANITIZE)
  # -O1: without it whole merges take more than twice as long, and some unit tests five times
  add_compile_options($<$<COMPILE_LANGUAGE:C>:-O1> $<$<COMPILE_LANGUAGE:C>:-fsanitize=address,undefined>
                      $<$<COMPILE_LANGUAGE:C>:-fno-sanitize-recover=all>
                      $<$<COMPILE_LANGUAGE:C>:-fno-omit-frame-pointer>)
  add_link_options(-fsanitize=address,undefined)
endif()
