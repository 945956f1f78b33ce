# PALIMPSEST_CUDA says whether the CUDA kernels are built; PALIMPSEST_CUDA_FOUND whether they can be.
# Only nvcc is needed, no GPU. `make cuda` builds the target cuda_kernels: every CUDA library is made
# a dependency of it.

set(PALIMPSEST_CUDA AUTO CACHE STRING "CUDA kernels: ON, OFF, or AUTO: where nvcc is found")
set_property(CACHE PALIMPSEST_CUDA PROPERTY STRINGS AUTO ON OFF)
# Several prove that the kernels compile for them; each costs its share of compile time.
set(PALIMPSEST_CUDA_ARCHITECTURES 90a-real CACHE STRING
  "What the CUDA kernels are compiled for: 80-real (A100), 90a-real (H100, H200), 100 (B200 and later)")
set(PALIMPSEST_CUDA_FOUND OFF)
if(PALIMPSEST_CUDA)  # AUTO and ON
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    # check_language looks in PATH only; the toolkit's installer does not touch that.
    find_program(PALIMPSEST_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
      PATHS /usr/local/cuda)
    if(PALIMPSEST_NVCC)
      set(CMAKE_CUDA_COMPILER ${PALIMPSEST_NVCC} CACHE FILEPATH "nvcc")
    endif()
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${PALIMPSEST_CUDA_ARCHITECTURES})
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26 does not know it
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    endif()
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(PALIMPSEST_CUDA_FOUND ON)
  elseif(NOT PALIMPSEST_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "PALIMPSEST_CUDA is ON, but no working nvcc was found: put it into PATH, or "
      "set CUDACXX or CUDA_HOME. -DPALIMPSEST_CUDA=OFF builds without the CUDA kernels.")
  endif()
endif()

if(PALIMPSEST_CUDA_FOUND)
  find_package(CUDAToolkit REQUIRED)
  set(PALIMPSEST_CUDA_STATE
    "built by nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${PALIMPSEST_CUDA_ARCHITECTURES}")
else()
  set(PALIMPSEST_CUDA_STATE "not built (PALIMPSEST_CUDA=${PALIMPSEST_CUDA}, no nvcc in use)")
endif()
message(STATUS "CUDA kernels: ${PALIMPSEST_CUDA_STATE}")
add_custom_target(cuda_kernels
  COMMAND ${CMAKE_COMMAND} -E echo "CUDA kernels: ${PALIMPSEST_CUDA_STATE}" VERBATIM)
