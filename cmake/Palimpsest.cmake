# Helpers used by every CMakeLists.txt of the tree: one library a folder, one test binary a test file.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

set(PALIMPSEST_SANITIZE "" CACHE STRING "Sanitizers for the whole build: address,undefined or thread")
add_library(palimpsest_options INTERFACE)
target_compile_features(palimpsest_options INTERFACE cxx_std_20)
target_include_directories(palimpsest_options INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
target_compile_options(palimpsest_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -fstack-protector-strong>
  # constexpr functions of the tree (layout.h) are called in kernels too. What nvcc hands to the host
  # compiler has lost its default member initialisers, so that partial lists would look incomplete.
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Werror=all-warnings
    -Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers>)
if(PALIMPSEST_SANITIZE)
  # Whole build, so that libraries and tests agree; options live in tests/sanitizers.
  # -O1 -g1: half the compile time of -O2 -g, and stacks still name files and lines.
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-O1> $<$<COMPILE_LANGUAGE:CXX>:-g1>
                      $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${PALIMPSEST_SANITIZE}>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>)
  add_link_options(-fsanitize=${PALIMPSEST_SANITIZE})
endif()

# palimpsest_library(NAME SRCS a.cc b.cc DEPS x y): a static library; header-only when SRCS is empty.
function(palimpsest_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(${name} STATIC ${ARG_SRCS})
    target_link_libraries(${name} PUBLIC palimpsest_options ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE palimpsest_options ${ARG_DEPS})
  endif()
endfunction()

# palimpsest_binary(NAME SRCS main.cc DEPS x y): an executable, in ${PROJECT_BINARY_DIR}/bin.
function(palimpsest_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE palimpsest_options ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
endfunction()

# palimpsest_test_entry(NAME BINARY b [ARGUMENTS --x] [LABELS unit] [TIMEOUT 60]): a ctest entry that
# runs a test binary. It shows as skipped if any of its tests was: tests/test_main.cc.
function(palimpsest_test_entry name)
  cmake_parse_arguments(ARG "" "BINARY;TIMEOUT" "ARGUMENTS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_test(NAME ${name} COMMAND ${ARG_BINARY} ${ARG_ARGUMENTS})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    SKIP_RETURN_CODE 77 ENVIRONMENT "${PALIMPSEST_TEST_ENVIRONMENT}"
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
endfunction()

# palimpsest_test(NAME SRCS x_test.cc DEPS y [the options of an entry]): a GoogleTest binary and its
# one ctest entry.
function(palimpsest_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;ARGUMENTS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE palimpsest_options ${ARG_DEPS} palimpsest_test_main)
  palimpsest_test_entry(${name} BINARY ${name} TIMEOUT "${ARG_TIMEOUT}" LABELS "${ARG_LABELS}"
    ARGUMENTS ${ARG_ARGUMENTS})
endfunction()
