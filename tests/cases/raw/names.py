"""How series are called: by Siemens, GE, Philips and Canon, in archives, and by researchers.

None of them is of a patient: these are habits, as protocols of the makers and collections have
them. `-` is what is none of the four modalities.
"""

from __future__ import annotations

SIEMENS = """
t1      t1_mprage_sag_p2_iso
t1      t1_mprage_tra_nativ
t1      t1_mpr_sag_p2_iso
t1      T1_MPRAGE_SAG_ISO_1.0
t1      t1_se_tra
t1      t1_tse_tra_320
t1      t1_tse_dark-fluid_tra_3mm
t1      t1_fl2d_tra
t1      t1_space_sag_p2_iso
t1      t1_tirm_tra_dark-fluid
t1      t1_vibe_tra_nativ
t1      mprage_sag_iso
t1      MPRAGE
t1ce    t1_mprage_sag_p2_iso_KM
t1ce    t1_mprage_tra_p2_iso_post_KM
t1ce    t1_mprage_sag_p2_iso+KM
t1ce    t1_tse_tra_KM
t1ce    t1_tse_tra_fs_+KM
t1ce    t1_se_tra_gd
t1ce    t1_mprage_sag_CE
t1ce    t1_mprage_ax_post_gad
t1ce    T1 MPRAGE TRA POST GAD
t1ce    t1_space_sag_p2_iso_GD
t1ce    t1_vibe_fs_tra_KM
t1ce    t1_fl2d_tra_KM
t1ce    t1_mprage_sag_p2_iso_mit_KM
t1ce    t1_mpr_tra_iso_Kontrastmittel
t2      t2_tse_tra
t2      t2_tse_tra_512_p2
t2      t2_tse_tra_p2_320 4mm
t2      t2_blade_tra
t2      t2_space_sag_p2_iso
t2      t2_spc_sag_p2_iso
t2      T2_TSE_COR_FS
t2      t2_tse_tra_KM
flair   t2_tirm_tra_dark-fluid
flair   t2_tirm_tra_dark-fluid_FLAIR
flair   t2_space_dark-fluid_sag_p2_iso
flair   t2_spc_da-fl_sag_p2_iso
flair   t2_spc_da-fl_irprep_sag_p2_iso
flair   t2_tse_tra_dark-fluid_fs
flair   t2_flair_tra_p2
flair   t2_blade_dark-fluid_tra
flair   FLAIR_TRA
flair   spc_ir_sag_FLAIR
-       localizer
-       AAHead_Scout
-       AAHead_Scout_MPR_sag
-       ep2d_diff_4scan_trace_p2_ADC
-       ep2d_diff_b1000_TRACEW
-       ep2d_diff_MDDW_30_p2_FA
-       ep2d_diff_MDDW_30_p2_ColFA
-       ep2d_diff_tensor_TENSOR
-       resolve_3scan_trace_tra_p2_192_ADC
-       ep2d_perf_p2_MoCo
-       ep2d_perf_GBP
-       ep2d_perf_relCBV
-       ep2d_perf_relMTT
-       ep2d_bold_moco
-       ep2d_pace_rest
-       t2_fl2d_tra_hemo
-       t2_fl3d_swi_tra
-       t2_swi3d_tra_p2_2mm
-       SWI_Images
-       Mag_Images
-       Pha_Images
-       mIP_Images(SW)
-       TOF_3D_multi-slab
-       TOF_MIP_TRA
-       fl3d_tof_MIP_COR
-       fl_tof_venous
-       gre_field_mapping
-       tgse_pcasl_3d
-       csi_se_135
-       svs_se_30
-       t1_mprage_sag_p2_iso_MPR_Tra
-       t1_mprage_sag_p2_iso_KM_MPR_Cor
-       MPR Range[1]
-       t1_mprage_sag_SUB
-       t2_stir_cor
-       t2_ci3d_tra_ciss_iac
-       t1_tse_sag_orbita_orbit
-       t2_tse_sag_HWS
-       mp2rage_T1_Images
-       t1_mp2rage_sag_INV1
-       t1map_molli
-       pd_tse_tra
-       dyn_t1_vibe_tra
-       Perfusion_Weighted
-       SynthMR_T2
-       Screenshot
-       PhoenixZIPReport
-       t1_twist_dynamic
"""
GE = """
t1      Ax T1
t1      AX T1 SE
t1      SAG T1
t1      Sag T1 FLAIR
t1      AX T1 FLAIR
t1      T1 FLAIR SAG
t1      OAx T1 FLAIR
t1      AX 3D FSPGR
t1      Ax BRAVO
t1      Sag 3D T1 BRAVO
t1      3D T1 MPRAGE SAG
t1      Ax T1 FSE Pre
t1      AX T1 W/O
t1      AX T1 w/o contrast
t1      Ax T1 PRE GD
t1      Sag T1 CUBE
t1      AX T1 MEMP
t1ce    Ax T1 +C
t1ce    AX T1+C
t1ce    Ax T1 C+
t1ce    AX T1 FLAIR +C
t1ce    Ax 3D T1 BRAVO +C
t1ce    SAG 3D FSPGR +C
t1ce    AX FSPGR POST
t1ce    +C Ax T1 SE
t1ce    +C AX 3D SPGR
t1ce    +C COR T1
t1ce    Ax T1 FSE FS +C
t1ce    AX T1 POST
t1ce    AX T1 POST GAD
t1ce    Ax T1 w/ contrast
t1ce    Ax T1 W CONTRAST
t1ce    Sag T1 CUBE +C
t1ce    AX T1 GD
t1ce    3D T1 Post
t1ce    AXT1POST
t2      Ax T2
t2      AX T2 FSE
t2      Ax T2 FRFSE
t2      AX FRFSE
t2      OAx T2 PROPELLER
t2      AX T2 FS
t2      Ax T2 PROP
t2      Sag CUBE T2
t2      AX T2 FSE ASSET
t2      COR T2
flair   Ax T2 FLAIR
flair   AX FLAIR
flair   Ax FLAIR PROPELLER
flair   SAG CUBE FLAIR
flair   Sag T2 CUBE FLAIR
flair   Ax T2FLAIR
flair   AX FLAIR +C
flair   AX FLAIR POST
flair   OAX T2 FLAIR FS
flair   AxT2Flair
-       3 Plane Loc
-       3-pl T2* FGRE S
-       3-Plane Localizer
-       Asset Cal
-       ASSET calibration
-       Calibration Scan
-       Cal 8HRBRAIN
-       Ax DWI
-       AX DWI 1000b
-       Ax DTI 25 dir
-       ADC (10^-6 mm²/s)
-       Apparent Diffusion Coefficient (mm2/s)
-       dADC Map
-       eADC
-       Average DC
-       Fractional Aniso.
-       AX T2* GRE
-       Ax T2 GRE
-       AX GRE
-       Ax MPGR
-       Ax SWAN
-       Filt_Pha: Ax SWAN
-       FILT_PHA: AX SWAN
-       PERFUSION
-       AX PERFUSION DSC
-       3D ASL (non-contrast)
-       (Color Images) CBF
-       3D pCASL
-       Ax 3D TOF
-       COL:3D TOF MRA
-       PJN:COL:3D TOF
-       MRV INHANCE
-       PROBE-P 35
-       AX T1 REFORMAT
-       COR T1 RFMT
-       AX MIP
-       Ax T1 dynamic
-       Ax FIESTA
-       SAG FIESTA-C
-       SAG T2 STIR
-       Ax PD
-       Cor T1 pituitary
-       AX T1 ORBITS FS +C
-       SAG T2 C-SPINE
-       Processed Images
-       NOT DIAGNOSTIC: SWAN
-       Screen Save
-       NEG ENHANCEMENT INTEGRAL
-       AX T1 SUB
-       Exam card
"""
PHILIPS = """
t1      T1W_SE
t1      T1W_TSE
t1      T1W_3D_TFE
t1      sT1W_3D_TFE
t1      T1W_IR
t1      T1W_FFE
t1      T1 3D TFE SAG
t1      3D_T1_TFE
t1      3D TFE
t1      eT1W_SE
t1      T1_SE_TRA
t1      VISTA T1
t1      T1W_BrainVIEW
t1      BrainVIEW_T1W
t1      T1W/SE
t1      T1W_SE native
t1ce    sT1W_3D_TFE GADO
t1ce    T1W_3D_TFE_Gd
t1ce    T1W_SE GADO
t1ce    T1W_TSE_CE
t1ce    T1W_SE +C
t1ce    T1W SE+
t1ce    T1 3D TFE POST
t1ce    T1W_3D_FFE_GADO
t1ce    BrainVIEW_T1W_C+
t1ce    3D_T1_VISTA_GD
t1ce    s3D_T1_TFE_GADO_TRA
t1ce    T1W_3D_TFE post contrast
t1ce    T1 TRA APRES GADO
t1ce    T1W_SE_MDC
t1ce    T1W_TSE_Contraste
t2      T2W_TSE
t2      eT2W_TSE
t2      T2W_TSE_TRA
t2      T2_TSE_DRIVE
t2      T2W_VISTA
t2      3D_BrainVIEW_T2
t2      T2W_TSE_MultiVane
t2      T2 TRA
t2      WIP T2W_TSE
flair   FLAIR_longTR
flair   T2W_FLAIR
flair   3D_FLAIR
flair   3D FLAIR VISTA
flair   BrainVIEW_FLAIR
flair   3D_Brain_VIEW_FLAIR_SHC
flair   FLAIR SPIR
flair   eFLAIR_longTR
flair   T2W_FLAIR_SPAIR
flair   sT2W_FLAIR
flair   FLAIR_TRA_GADO
-       Survey
-       SURVEY_SHC
-       Smart Brain
-       SmartBrain_T1
-       SenseRefScan
-       Ref_Head_8
-       CoilSurvey
-       DWI_SSh
-       sDWI_SE
-       DTI_high_iso
-       dReg - DWI
-       dADC
-       ADC
-       T2W_FFE
-       T2_FFE
-       FFE
-       SWIp
-       sSWIp
-       VenBOLD
-       3D_PCA
-       s3DI_MC_HR TOF
-       M2D_PCA
-       T2* perfusion
-       pCASL
-       FE_EPI_bold
-       SV_PRESS_35
-       2D_CSI
-       B-TFE
-       STIR
-       MPR T1 cor
-       MIP
"""
CANON = """
t1      T1 AX
t1      T1W AX SE
t1      T1 SE SAG
t1      3D T1 FFE
t1ce    T1 AX CE
t1ce    T1W AX POST
t1ce    AX T1 SE GD
t2      T2 AX
t2      T2 FSE AX
t2      T2W AX JET
flair   FLAIR AX
flair   FLAIR FSE AX
flair   T2 FLAIR 3D
-       Locator
-       SPEEDER map
-       DWI ax b1000
-       ADC map
-       T2* AX FE
-       FSBB
-       MRA TOF HEAD
-       ISOTROPIC DWI
"""
ARCHIVES = """
t1      T1prereg
t1      MPRAGE GRAPPA2(adni)
t1      MPRAGE w/ GRAPPA
t1      MPRAGEadni
t1      T1_MPRAGE_ISO_AC_PC
t1      SAG T1 3DMPRAGE
t1      sag 3D FSPGR BRAVO straight
t1      t1_mprage_moco
t1      T1 AX NONCON
t1      PD_003_T1w
t1ce    AX T1 SE C+
t1ce    t1_se_tra_civ
t1ce    T1 CON GADOLINIO
t1ce    T1W_AX+C FAT SAT
t1ce    AX T1 FS W/
t1ce    T1+GD
t2      AX T2 AC-PC LINE ENTIRE BRAIN
t2      *AX FSE T2
t2      pd+t2_tse_tra_e2
t2      T2 FRFSE-XL
flair   Cor FLAIR TI_2800ms
flair   AX FLAIR T2
flair   t2_tirm_tra_dark-fluid NO BLADE
flair   T2_SPACE_DARKFLUID
-       Axial PD-T2 TSE
-       sT2W/PD_TSE
-       ep2d_se_pe_polar
-       REPEAT_DTI_NON-GATED
-       FE_EPI 160
-       B0 mapping
-       T2 TSE Axial Prostate
t1      T1 PRE
t1      T1 AXIAL PRE
t1      AX T1 PRE GD
t1      T1 NON CONTRAST
t1      AX T1 NONCONTRAST
t1      T1-weighted pre-contrast
t1      T1 Axial Non-Contrast
t1      AX T1 WO CONTRAST
t1      AXIAL T1
t1      T1 without
t1      T1 AX PRE-OP
t1      t1_axial_native
t1      T1 (SE) TRA ohne KM
t1ce    T1post
t1ce    AX T1 POST
t1ce    T1 POST GD AX
t1ce    T1-weighted post-contrast
t1ce    T1 Axial Post Contrast
t1ce    AX T1 POST GD FLAIR
t1ce    AXIAL T1 GD
t1ce    T1 PREOP GAD
t1ce    AX T1 POSTOP POST GAD
t1ce    POST T1 AX
t1ce    T1 3D IR POST
t1ce    POST AXIAL SPGR
t1ce    FSPGR 3D AX POST
t1ce    STEALTH POST T1
t1ce    3D GAD T1 STEALTH
t1ce    AX T1 ENHANCED
t1ce    CORONAL T1 + GADOLINIUM
t1      AX T1 POST OP
t2      T2reg
t2      T2 AXIAL
t2      AXIAL T2
t2      AX T2 POST GD
t2      T2-weighted
t2      AXIAL T2 FSE
flair   FLAIRreg
flair   AXIAL FLAIR
flair   T2 AXIAL FLAIR
flair   FLAIR AXIAL POST
flair   T2-weighted FLAIR
-       sRCBVreg
-       nRCBVreg
-       nCBFreg
-       ADCreg
-       dT1
-       MaskTumor
-       RAPID CBF
-       AX PD
-       3PL LOC
-       DCE T1 PERFUSION
-       KTRANS
-       AX DIFFUSION
-       CSF FLOW
"""
RESEARCH = """
t1      t1_raw
t1      t1
t1      T1w
t1      T1n
t1      T1_native
t1      case_t1n
t1      t1_to_t1ce
t1      P001_T1_brain
t1      sub-01_ses-pre_T1w
t1      sub-01_ce-none_T1w
t1      T1_MPRAGE
t1      T1w_MPR_normalized
t1      CON_01_T1
t1      anat/T1/image
t1ce    t1ce_raw
t1ce    T1c
t1ce    T1CE
t1ce    T1GD
t1ce    T1Gd
t1ce    T1KM
t1ce    T1-Gd
t1ce    ceT1
t1ce    T1_MPRAGE_post
t1ce    case_t1gd
t1ce    t1c
t1ce    sub-01_ce-gadolinium_T1w
t1ce    T1wCE
t1ce    T1_contrast
t1ce    T1contrast
t1ce    t1_post_to_t1
t1ce    T1_with_contrast
t2      t2_raw
t2      T2w
t2      t2w
t2      T2_to_T1
t2      t2_reg_t1ce
t2      sub-01_ses-post_T2w
flair   flair_raw
flair   flair
flair   t2f
flair   T2_FLAIR
flair   T2-FLAIR
flair   FLAIR_to_T1
flair   flair2t1
flair   t2flair
flair   Flair_reg
-       t1_reference_brats_space
-       t1ce_reference_brats_space
-       brainmask_hdbet_brats
-       t1ce_brainmask_hdbet_native
-       seg
-       tumor_seg
-       t1_mask
-       flair_bias_field
-       T2starw
-       dwi
-       scan
-       image
-       brain
-       t1_sri24
-       T1_mni152
"""
TABLES = {
    "Siemens": SIEMENS,
    "GE": GE,
    "Philips": PHILIPS,
    "Canon": CANON,
    "archives": ARCHIVES,
    "research": RESEARCH,
}


def rows() -> list[tuple[str, str | None, str]]:
    """Whose habit it is, the modality or None, and the name."""
    lines = [(maker, line) for maker, text in TABLES.items() for line in text.strip().splitlines()]
    split = [(maker, *line.split(maxsplit=1)) for maker, line in lines]
    return [(maker, None if kind == "-" else kind, name) for maker, kind, name in split]
