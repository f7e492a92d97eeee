# Warnings for our own targets only, never for headers of others.
function(ingot_warnings target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:C>:
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes -Wmissing-prototypes
    -Wvla -Wundef -Wpointer-arith -Wcast-qual -Wwrite-strings>
    # sizes are constants of enums, which newer versions of Clang do not like to see beside doubles
    $<$<COMPILE_LANG_AND_ID:C,Clang>:-Wno-enum-float-conversion>)
  if(INGOT_WERROR)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:C>:-Werror>
      $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  endif()
endfunction()
