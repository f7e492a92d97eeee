# What `cmake --install` lays down: the program, the Slurm scripts, documentation, man page, bash completion, a modulefile and a
# pkg-config file (for the version and the folders; there is no library to link).
include(GNUInstallDirs)
install(TARGETS ingot RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(PROGRAMS slurm/submit slurm/pipeline slurm/sweep DESTINATION ${CMAKE_INSTALL_DATADIR}/ingot/slurm)
install(FILES slurm/merge.sbatch slurm/distill.sbatch slurm/batch.sh slurm/common.sh slurm/site.env.example
  DESTINATION ${CMAKE_INSTALL_DATADIR}/ingot/slurm)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
foreach(file ingot.1 modulefile ingot.pc)
  configure_file(cmake/install/${file}.in ${PROJECT_BINARY_DIR}/install/${file} @ONLY)
endforeach()
install(FILES ${PROJECT_BINARY_DIR}/install/ingot.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${PROJECT_BINARY_DIR}/install/modulefile DESTINATION ${CMAKE_INSTALL_DATADIR}/modulefiles/ingot
  RENAME ${PROJECT_VERSION})
install(FILES ${PROJECT_BINARY_DIR}/install/ingot.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
install(FILES cmake/install/ingot.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME ingot)
