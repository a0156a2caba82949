// dicom-parser asks for zlib only to read deflated DICOM, which the app refuses.
export default {};
